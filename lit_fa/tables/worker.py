"""What happens inside a worker process: one run after the other, output to a log, one line back."""

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from lit_fa.errors import UserError
from lit_fa.tables.claim import claim_of, claimed

Runner = Callable[[dict[str, Any], dict[str, Any]], None]


DONE = ("finished", "diverged")  # what a record says of a run that is not to be run again


@dataclass(frozen=True)
class Done:
    """How a run ended: `reason` is empty for a finished one; `user_error` marks a reason that the user can mend.

    `elsewhere` says that another process has the run or has finished it meanwhile.
    """

    reason: str
    user_error: bool
    seconds: float
    elsewhere: str = ""


def prepare() -> None:
    """Set-up of a worker: Ctrl-C is the parent's business, and a worker does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def work(runner: str, config: dict[str, Any], record: dict[str, Any], log: str) -> Done:
    """Calls the runner on one config, unless another process is at it; a failure comes back as a line."""
    started = time.monotonic()
    with claimed(claim_of(Path(record["path"]))) as other:
        if other:
            return Done("", False, 0.0, f"left to {other}, which is training it")
        if not _unwritten(record):
            return Done("", False, 0.0, "finished by another process meanwhile")
        reason, user_error = _train(runner, config, record, Path(log))
    return Done(reason, user_error, time.monotonic() - started)


def _train(runner: str, config: dict[str, Any], record: dict[str, Any], log: Path) -> tuple[str, bool]:
    """Why the run failed, "" if it did not; and whether the user can mend it."""
    with _output_to(log):
        try:
            function = load_runner(runner)
            _one_thread()
            function(config, record)
            if problem := _unwritten(record):
                raise RuntimeError(problem)
        except (Exception, SystemExit) as error:
            reason, user_error = one_line(error, log), getattr(error, "user_error", False)
            if not user_error:
                sys.excepthook(type(error), error, error.__traceback__)
            return reason, user_error
    return "", False


def load_runner(path: str) -> Runner:
    """The function at `package.module:function`."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"the runner {path!r} cannot be loaded ({error}); give package.module:function") from error


def one_line(error: BaseException, log: Path) -> str:
    """An error as one line; a run that called exit is described by the last thing it printed."""
    if isinstance(error, SystemExit):
        sys.stdout.flush()
        sys.stderr.flush()
        said = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return f"exit {error.code}: {said[-1] if said else 'nothing was printed'}"
    message = next(iter(str(error).strip().splitlines()), "")
    return message if getattr(error, "user_error", False) else f"{type(error).__name__}: {message}"


def _unwritten(record: dict[str, Any]) -> str:
    """What keeps the run's record from being its last; "" where nothing does."""
    path = Path(record["path"])
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"the run ended without a record at {path}"
    except ValueError:
        return f"the record at {path} is half-written"
    if isinstance(written, dict) and written.get("status") in DONE and written.get("id") == record["id"]:
        return ""
    said = written if isinstance(written, dict) else {}
    return f"the record at {path} says status {said.get('status')!r}, id {said.get('id')!r}"


def _one_thread() -> None:
    """Cells run side by side, so each has one thread; the environment says so already, unless torch came first."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Sends everything printed, by compiled code as well, to a file for the length of one run."""
    log.parent.mkdir(parents=True, exist_ok=True)
    saved = os.dup(1), os.dup(2)
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


def _leave_with_parent() -> None:
    """A worker waits on a queue whose writing end it holds itself; only this tells it that the parent was killed."""
    if parent := parent_process():
        connection.wait([parent.sentinel])
        os._exit(1)
