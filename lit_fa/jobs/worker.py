"""What happens inside a worker process: one run after the other, output to a log, one line back."""

import copy
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from lit_fa.bounded_reading import read_json
from lit_fa.errors import RanksNeeded
from lit_fa.jobs.lock import checkpoints_of, in_the_way, lock_of, locked
from lit_fa.jobs.own_process import run_alone
from lit_fa.jobs.runners import load_runner
from lit_fa.outputs import growing
from lit_fa.results.records import ENDED, Record
from lit_fa.stopping import SIGNALS, interruptions_as_stopped, stop


@dataclass(frozen=True)
class Done:
    """How a run ended: `reason` says why it failed; `user_error` marks a reason that the user can mend.

    `elsewhere` says that another process has the run or has finished it meanwhile; `diverged` where the run diverged,
    which is a result and no failure; `unfinished` what ended the run before its end: it can go on; `note` what it has
    said of a checkpoint that it could not use.
    """

    reason: str
    user_error: bool
    seconds: float
    elsewhere: str = ""
    diverged: str = ""
    unfinished: str = ""
    note: str = ""

    @property
    def said(self) -> str:
        """The end in one line."""
        diverged = f"diverged {self.diverged}" if self.diverged else ""
        unfinished = f"not finished: {self.unfinished}" if self.unfinished else ""
        said = self.reason or unfinished or self.elsewhere or diverged or f"finished in {self.seconds:.1f} s"
        return f"{said}; {self.note}" if self.note else said

    @property
    def finished(self) -> bool:
        """This process has written a result."""
        return not (self.reason or self.unfinished or self.elsewhere)


def prepare() -> None:
    """Set-up of a worker: what a terminal sends is the parent's business; a worker does not outlive its parent.

    SIGTERM ends a worker that has no run, without a word.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, _: os._exit(128 + signum))
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def work(runner: str, config: dict[str, Any], record: dict[str, Any], log: str) -> Done:
    """Calls the runner on one config, unless another process is at it; a failure comes back as a line.

    SIGTERM ends the run, which keeps a checkpoint where its runner does, and leaves it unfinished.
    """
    started = time.monotonic()
    if line := in_the_way(Path(record["path"])):
        return Done(line, True, 0.0)
    with locked(lock_of(Path(record["path"]))) as other:
        if other:
            return Done("", False, 0.0, f"left to {other}, which is training it")
        if not _unwritten(record):
            shutil.rmtree(checkpoints_of(Path(record["path"])), ignore_errors=True)
            return Done("", False, 0.0, "finished by another process meanwhile")
        try:
            with _stoppable(), _warnings_of("lit_fa.checkpoints.resume") as said:
                reason, user_error = _train(runner, config, record, Path(log))
        except KeyboardInterrupt as stopped:
            return Done("", False, time.monotonic() - started, unfinished=str(stopped) or "stopped")
    diverged = "" if reason else Record(Path(record["path"]), _written(record)).diverged
    return Done(reason, user_error, time.monotonic() - started, diverged=diverged, note="; ".join(said))


@contextmanager
def _warnings_of(logger: str) -> Iterator[list[str]]:
    """What is warned of through a logger meanwhile; it still reaches the log."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]  # of this object
    logging.getLogger(logger).addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger(logger).removeHandler(handler)


def _train(runner: str, config: dict[str, Any], record: dict[str, Any], log: Path) -> tuple[str, bool]:
    """Why the run failed, "" if it did not; and whether the user can mend it."""
    with _output_to(log):
        try:
            function = load_runner(runner)
            _one_thread()
            with interruptions_as_stopped():
                original = copy.deepcopy(config)  # a parser puts its own objects into the other
                try:
                    function(config, record)
                except RanksNeeded:
                    run_alone(runner, original, record)
            if problem := _unwritten(record):
                raise RuntimeError(problem)
        except (Exception, SystemExit) as error:
            if not _unwritten(record) and _written(record)["status"] == "diverged":
                return "", False
            reason, user_error = _reason(error, log), _user_can_correct(error)
            if not getattr(error, "user_error", False):
                sys.excepthook(type(error), error, error.__traceback__)
            return reason, user_error
    return "", False


def _user_can_correct(error: BaseException) -> bool:
    """The user can correct the error; a parser that exits with 2 has printed how."""
    return getattr(error, "user_error", False) or (isinstance(error, SystemExit) and error.code == 2)


def _reason(error: BaseException, log: Path) -> str:
    """An error as one line; a run that called exit is described by the last line of its log."""
    if isinstance(error, SystemExit):
        sys.stdout.flush()
        sys.stderr.flush()
        said = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return f"exit {error.code}: {said[-1] if said else 'nothing was printed'}"
    message = next(iter(str(error).strip().splitlines()), "")  # of more lines the first says most
    return message if getattr(error, "user_error", False) else f"{type(error).__name__}: {message}"


def _unwritten(record: dict[str, Any]) -> str:
    """What keeps the run's record from being its last; "" where nothing does."""
    path = Path(record["path"])
    if not path.is_file():
        return f"the run ended without a record at {path}"
    written = _written(record)
    if not written:
        return f"the record at {path} is half-written"
    if "replaces" in record and version_of(written) == record["replaces"]:
        return f"the record at {path} is still the old one"
    if written.get("status") in ENDED and written.get("id") == record["id"]:
        return ""
    return f"the record at {path} says status {written.get('status')!r}, id {written.get('id')!r}"


def _written(record: dict[str, Any]) -> dict[str, Any]:
    """What the record's file holds; nothing where it cannot be read or is no record."""
    try:
        written = read_json(Path(record["path"]))
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}


def version_of(data: dict[str, Any]) -> dict[str, Any]:
    """When and by which commit a record was written: two records of one run differ in it."""
    return {key: data.get(key) for key in ("commit", "finished")}


def _one_thread() -> None:
    """Cells run side by side, so each has one thread; the environment says so already, unless torch came first."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Sends everything printed, by compiled code as well, to a file for the length of one run."""
    saved = os.dup(1), os.dup(2)
    with growing(log) as file:
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


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM raises inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave_with_parent() -> None:
    """A worker waits on a queue whose writing end it holds itself; only this tells it that the parent was killed."""
    if parent := parent_process():
        connection.wait([parent.sentinel])
        os._exit(1)
