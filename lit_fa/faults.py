"""Faults by name, for tests and by hand: `LIT_FA_FAULT=kill@37 lit-fa fit ...`.

| fault | what happens |
|---|---|
| `kill@37`, `sigterm@37`, `sigint@37`, `sighup@37` | the signal, before the step after global step 37 |
| `sigterm@epoch2` | the same at the beginning of epoch 2 (the first is 0) |
| `nan@5`, `nan@epoch1` | a parameter is no number from there on |
| `disk@save` | the disk is full while a checkpoint is written |
| `kill@save`, `sigterm@save`, ... | the signal while a checkpoint is written |

Where the variable is not set, nothing is attached and nothing is asked.
"""

import errno
import os
import re
import signal
from dataclasses import dataclass

from lit_fa.errors import UserError

VARIABLE = "LIT_FA_FAULT"
SIGNALS = {"kill": "SIGKILL", "sigterm": "SIGTERM", "sigint": "SIGINT", "sighup": "SIGHUP"}


@dataclass(frozen=True)
class Fault:
    """What happens, and where: at a global step, at an epoch's beginning, or in a save (neither).

    Attributes:
        what: kill, sigterm, sigint, sighup, nan or disk.
        step: global step.
        epoch: counted from 0.
    """

    what: str
    step: int | None = None
    epoch: int | None = None

    @property
    def in_save(self) -> bool:
        """It happens while a file is written."""
        return self.step is None and self.epoch is None

    def send(self) -> None:
        """Send this process its signal."""
        os.kill(os.getpid(), getattr(signal, SIGNALS[self.what]))


def asked() -> Fault | None:
    """The fault that the environment asks for.

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
    names = "|".join(SIGNALS)
    if not re.fullmatch(rf"((?:{names}|nan)@(?:epoch)?[0-9]{{1,9}}|(?:{names}|disk)@save)", text):
        raise UserError(f"{VARIABLE}={text}: write kill, sigterm, sigint, sighup or nan @STEP or @epochN, or disk@save")
    what, _, where = text.partition("@")
    if where == "save":
        return Fault(what)
    return Fault(what, epoch=int(where[5:])) if where.startswith("epoch") else Fault(what, step=int(where))


def while_writing(path: object) -> None:
    """Called by whoever writes a checkpoint, when a part of it is written."""
    fault = asked()
    if fault is None or not fault.in_save:
        return
    if fault.what == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    fault.send()
