"""A worker process: it carries out runs, writes their output to logs, and returns how each ended."""

import atexit
import copy
import gc
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import connection, parent_process
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from lit_fa.bounded_reading import read_json
from lit_fa.errors import RanksNeeded
from lit_fa.jobs.lock import checkpoints_of, in_the_way, lock_of, locked
from lit_fa.jobs.own_process import run_alone
from lit_fa.jobs.packing import Together
from lit_fa.jobs.runners import load_runner
from lit_fa.outputs import growing
from lit_fa.results.records import ENDED, Record
from lit_fa.stopping import SIGNALS, interruptions_as_stopped, stop


@dataclass(frozen=True)
class Done:
    """How a run ended.

    Attributes:
        reason: of a failure, else "".
        user_error: whether the user can correct it.
        seconds: of the run.
        elsewhere: why the run was left to another process.
        diverged: where the run diverged, which is a result and no failure.
        unfinished: what stopped the run; it can be continued.
        note: warnings about checkpoints that could not be used.
    """

    reason: str
    user_error: bool
    seconds: float
    elsewhere: str = ""
    diverged: str = ""
    unfinished: str = ""
    note: str = ""

    @property
    def summary(self) -> str:
        """How the run ended, in one line."""
        diverged = f"diverged {self.diverged}" if self.diverged else ""
        unfinished = f"not finished: {self.unfinished}" if self.unfinished else ""
        end = self.reason or unfinished or self.elsewhere or diverged or f"finished in {self.seconds:.1f} s"
        return f"{end}; {self.note}" if self.note else end

    @property
    def finished(self) -> bool:
        """Whether this process has written a result."""
        return not (self.reason or self.unfinished or self.elsewhere)


def prepare(environment: Mapping[str, str]) -> None:
    """Set up a worker: only the parent handles the signals of a terminal, and a worker ends with its parent.

    SIGTERM ends a worker without a run, without output.

    Args:
        environment: variables of the parent; those of the server that has forked this worker may be older.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, _: os._exit(128 + signum))
    _as_if_spawned(environment)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _as_if_spawned(environment: Mapping[str, str]) -> None:
    """Undo what a worker that was forked from a server shares with it; a spawned one stays as it is."""
    os.environ.clear()
    os.environ.update(environment)
    gc.freeze()  # what the server has imported; a collection would copy the memory that both share
    atexit.register(gc.unfreeze)  # some libraries report what is left at the end
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # the other generators are seeded by the fork, or by every run
    Finalize(None, atexit._run_exitfuncs, exitpriority=0)  # a forked process calls only those of multiprocessing


def work_all(
    runner: str, runs: Sequence[tuple[dict[str, Any], dict[str, Any], str]], together: Together = "off"
) -> list[Done]:
    """`work` for each (config, record, log); as a pack they take turns, and train together where they can.

    Args:
        runner: as in `work`.
        runs: of one pack.
        together: as in `Packing`.
    """
    if together == "off":
        return [work(runner, *run) for run in runs]
    from lit_fa.packs import Lane, Pack

    lanes = [Lane(partial(work, runner, *run)) for run in runs]
    Pack(lanes, measured=together == "measured").run()
    return [lane.result or _without_result(lane.error) for lane in lanes]


def _without_result(error: BaseException | None) -> Done:
    """How a run of a pack ended that has not begun, because of a signal, or whose worker failed."""
    if isinstance(error, KeyboardInterrupt):
        return Done("", False, 0.0, unfinished=f"not begun: {error}")
    return Done(f"{type(error).__name__}: {error}", False, 0.0)


def work(runner: str, config: dict[str, Any], record: dict[str, Any], log: str) -> Done:
    """Call the runner on one config, unless another process runs it; a failure is returned as one line.

    SIGTERM stops the run, which is then unfinished; the runner may have written a checkpoint.
    """
    clock = _clock()
    started = clock()
    if line := in_the_way(Path(record["path"])):
        return Done(line, True, 0.0)
    with locked(lock_of(Path(record["path"]))) as other:
        if other:
            return Done("", False, 0.0, f"left to {other}, which is training it")
        if not _unwritten(record):
            shutil.rmtree(checkpoints_of(Path(record["path"])), ignore_errors=True)
            return Done("", False, 0.0, "finished by another process meanwhile")
        try:
            with _stoppable(), _warnings_of("lit_fa.checkpoints.resume") as warnings:
                reason, user_error = _train(runner, config, record, Path(log))
        except KeyboardInterrupt as stopped:
            return Done("", False, clock() - started, unfinished=str(stopped) or "stopped")
    diverged = "" if reason else Record(Path(record["path"]), _written(record)).diverged
    return Done(reason, user_error, clock() - started, diverged=diverged, note="; ".join(warnings))


def _clock() -> Callable[[], float]:
    """Seconds of this run: of a pack, without those of the other runs."""
    packs = sys.modules.get("lit_fa.packs")
    lane = packs.current() if packs else None
    return time.monotonic if lane is None else lane.wall


@contextmanager
def _warnings_of(logger: str) -> Iterator[list[str]]:
    """The warnings of a logger within the context; they are logged as usual."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]  # of this object
    logging.getLogger(logger).addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger(logger).removeHandler(handler)


def _train(runner: str, config: dict[str, Any], record: dict[str, Any], log: Path) -> tuple[str, bool]:
    """Why the run failed, "" if it did not; and whether the user can correct it."""
    with _output_to(log):
        try:
            function = load_runner(runner)
            _one_thread()
            _leave_out_of_collections()
            with interruptions_as_stopped():
                original = copy.deepcopy(config)  # a parser changes the other one
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


@cache
def _leave_out_of_collections() -> None:
    """Take what is imported out of the garbage collector, once: a collection after a run took as long as an epoch."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # some libraries report what is left at the end


def _user_can_correct(error: BaseException) -> bool:
    """The user can correct the error; a parser that exits with 2 has printed how."""
    return getattr(error, "user_error", False) or (isinstance(error, SystemExit) and error.code == 2)


def _reason(error: BaseException, log: Path) -> str:
    """An error as one line; a run that called exit is described by the last line of its log."""
    if isinstance(error, SystemExit):
        sys.stdout.flush()
        sys.stderr.flush()
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        return f"exit {error.code}: {next(filter(None, reversed(lines)), 'nothing was printed')}"
    message = next(iter(str(error).strip().splitlines()), "")
    return message if getattr(error, "user_error", False) else f"{type(error).__name__}: {message}"


def _unwritten(record: dict[str, Any]) -> str:
    """Why the file of the record is not the result of this run; "" if it is."""
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
    """The content of the record's file; empty if it cannot be read or is no record."""
    try:
        written = read_json(Path(record["path"]))
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}


def version_of(data: dict[str, Any]) -> dict[str, Any]:
    """Time and commit of a record, by which two records of one run differ."""
    return {key: data.get(key) for key in ("commit", "finished")}


def _one_thread() -> None:
    """Use one thread, because runs are parallel; needed if torch was imported before the environment was set."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Redirect all output, also that of compiled code, to a file during one run."""
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
    """Within the context SIGTERM raises `Stopped`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave_with_parent() -> None:
    """Exit when the parent is killed; the queue of jobs does not report it, as the worker has its write end too."""
    if parent := parent_process():
        connection.wait([parent.sentinel])
        os._exit(1)
