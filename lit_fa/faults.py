"""Fault injection by an environment variable, for tests: `LIT_FA_FAULT=kill@37 lit-fa fit ...`.

| fault | what happens |
|---|---|
| `kill@37`, `sigterm@37`, `sigint@37`, `sighup@37` | the signal, before the step after global step 37 |
| `sigterm@epoch2` | the same at the beginning of epoch 2 (the first is 0) |
| `nan@5`, `nan@epoch1` | a parameter is set to NaN at that point |
| `disk@save`, `readonly@save` | the disk is full, or read-only, while a file is written |
| `kill@save`, `sigterm@save`, ... | the signal while a file is written |

A file is any output: a checkpoint, a record, a card, a figure, an export. If the variable is not set, no callback is
added.
"""

import errno
import os
import re
import signal
from dataclasses import dataclass

from lit_fa.errors import UserError

VARIABLE = "LIT_FA_FAULT"
DISKS = {"disk": errno.ENOSPC, "readonly": errno.EROFS}
SIGNALS = {"kill": "SIGKILL", "sigterm": "SIGTERM", "sigint": "SIGINT", "sighup": "SIGHUP"}


@dataclass(frozen=True)
class Fault:
    """A fault at a global step, at the beginning of an epoch, or (with neither) while a file is written.

    Attributes:
        what: kill, sigterm, sigint, sighup, nan, disk or readonly.
        step: global step.
        epoch: counted from 0.
    """

    what: str
    step: int | None = None
    epoch: int | None = None

    @property
    def in_save(self) -> bool:
        """Whether the fault happens while a file is written."""
        return self.step is None and self.epoch is None

    def send(self) -> None:
        """Send the signal to this process."""
        os.kill(os.getpid(), getattr(signal, SIGNALS[self.what], signal.SIGTERM))  # Windows has only SIGINT and SIGTERM


def asked() -> Fault | None:
    """The fault of the environment variable, or None.

    Raises:
        UserError: there is no such fault.
    """
    text = os.environ.get(VARIABLE)
    return parsed(text) if text else None


def parsed(text: str) -> Fault:
    """A fault from its name.

    >>> parsed("sigterm@epoch2")
    Fault(what='sigterm', step=None, epoch=2)
    """
    names, disks = "|".join(SIGNALS), "|".join(DISKS)
    if not re.fullmatch(rf"((?:{names}|nan)@(?:epoch)?[0-9]{{1,9}}|(?:{names}|{disks})@save)", text):
        signals = "kill, sigterm, sigint, sighup"
        raise UserError(
            f"{VARIABLE}={text}: write {signals} or nan @STEP or @epochN; {signals}, disk or readonly @save"
        )
    what, _, where = text.partition("@")
    if where == "save":
        return Fault(what)
    return Fault(what, epoch=int(where[5:])) if where.startswith("epoch") else Fault(what, step=int(where))


def while_writing(path: object) -> None:
    """Inject a fault `@save`; called after a file has been written and before it is renamed to `path`."""
    fault = asked()
    if fault is None or not fault.in_save:
        return
    if number := DISKS.get(fault.what):
        raise OSError(number, os.strerror(number), str(path))
    fault.send()
