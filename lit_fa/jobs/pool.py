"""A pool of N worker processes, each of which carries out one run after another."""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from lit_fa.jobs.packing import Packing, Queue, Together
from lit_fa.jobs.progress import Reporter
from lit_fa.jobs.start import context_of, end_server, environment
from lit_fa.jobs.worker import Done, prepare, work_all
from lit_fa.operating_system import blocked
from lit_fa.stopping import Request, handled

DEFAULT_RUNNER = "lit_fa.experiment:run"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_KILLED = "the worker was killed by the system, twice (out of memory?)"
GRACE_S = 60.0  # given to workers to complete their step and write a checkpoint
_CHECK_S = 0.2  # between two checks for a signal


@dataclass(frozen=True)
class Job:
    """One run to carry out.

    Attributes:
        label: shown to the user.
        config: of the runner.
        record: first fields of the record: `path`, where the runner writes it, `id`, and others that it repeats.
        log: file for the output.
    """

    label: str
    config: dict[str, Any]
    record: dict[str, Any]
    log: Path


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Outcome(Generic[J]):
    """A job and how it ended."""

    job: J
    done: Done


def run_jobs(
    jobs: Iterable[J | None],
    *,
    workers: int,
    reporter: Reporter,
    runner: str = DEFAULT_RUNNER,
    packing: Packing = Packing(),  # noqa: B008  # frozen
) -> Generator[Outcome[J], None, None]:
    """Run the jobs in order on `workers` processes and yield each outcome when it is known.

    If the system kills a worker, the pool breaks. All current runs are then retried once, one at a time, so that only
    the run that needs too much memory is reported. A run whose worker alone gets SIGTERM is retried once as well. A run
    that is ended twice counts as not finished, which is no failure. SIGINT, SIGTERM and SIGHUP ask the workers to write
    a checkpoint and stop within `GRACE_S`. A second Ctrl-C, or closing the generator, kills them. Records are written
    atomically.

    Args:
        jobs: requested one by one when a worker is free, so that a job may depend on earlier outcomes. None means that
            there is no job at the moment; the iterator is asked again until it ends.
        workers: number of processes; each computes with one thread.
        reporter: gets the label of a job that starts or is retried, and is told that the workers are asked to stop; the
            caller reports the end of each.
        runner: import path `package.module:function` of `runner(config, record) -> None`.
        packing: which runs one worker takes together; runs that are retried are alone.

    Raises:
        Stopped: a signal has arrived.
    """
    pending, retries, request = Queue(jobs, packing), deque[J](), Request()
    pool = _Workers(workers, runner, request, reporter.stopping)
    running = dict[Future[list[Done]], tuple[list[J], bool]]()
    with _one_thread_each(), handled(request), pool:
        while True:
            request.check()
            while len(running) < (1 if retries or _retrying(running) else workers):
                retry = bool(retries)
                taken = [retries.popleft()] if retry else pending.take()
                if not taken:
                    break
                for job in taken:
                    Path(job.record["path"]).parent.mkdir(parents=True, exist_ok=True)
                together = packing.together if packing.group(taken[0]) and not retry else "off"
                running[pool.submit(taken, together)] = (taken, retry)
                for job in taken:
                    reporter.started(job.label)
            if not running and pending.ended:
                return
            if not running:
                time.sleep(_CHECK_S)
                continue
            ended, _ = wait(running, timeout=_CHECK_S, return_when=FIRST_COMPLETED)
            if any(_was_killed(future) for future in ended):
                pool.dismiss()
                ended = set(running)
            for future, (taken, retry) in [(future, running.pop(future)) for future in [*running] if future in ended]:
                for job, done in zip(taken, _results(future, len(taken)), strict=True):
                    if retry or not done.unfinished:
                        yield Outcome(job, done)
                    elif not request.signum:
                        retries.append(job)
                        reporter.retried(job.label)


class _Workers:
    """A pool of workers that is rebuilt after the system killed one; they are asked to stop when a signal arrives."""

    def __init__(self, size: int, runner: str, request: Request, on_stop: Callable[[], None]) -> None:
        self.size, self.runner, self.request, self.on_stop = size, runner, request, on_stop
        self.pool: ProcessPoolExecutor | None = None
        self.others = set(multiprocessing.active_children())

    def submit(self, jobs: Sequence[Job], together: Together = "off") -> Future[list[Done]]:
        """Submit jobs for one worker to the pool; a pool that broke while it was idle is replaced."""
        # A new worker inherits the blocked signals, so that only the parent handles those of a terminal. The same holds
        # for the process that removes the semaphores of the pool, which a closed terminal would kill.
        with blocked("SIGINT", "SIGHUP"):
            try:
                self.pool = self.pool or self._new_pool()
                runs = [(job.config, job.record, str(job.log)) for job in jobs]
                return self.pool.submit(work_all, self.runner, runs, together)
            except BrokenProcessPool as broken:
                failed: Future[list[Done]] = Future()
                failed.set_exception(broken)
                return failed

    def stop(self) -> None:
        """Ask the workers to stop, repeatedly, because one may be about to start a run; then kill the others."""
        with suppress(KeyboardInterrupt):  # a second signal
            self.on_stop()
            if self.pool:
                self.pool.shutdown(wait=False, cancel_futures=True)
            until = time.monotonic() + GRACE_S
            while (alive := self._workers()) and time.monotonic() < until and not self.request.insisted:
                for process in alive:
                    process.terminate()
                connection.wait([process.sentinel for process in alive], timeout=1.0)
        self.dismiss()

    def dismiss(self) -> None:
        """Kill all workers; runs without a record will be run again."""
        for process in self._workers():
            process.kill()
        if self.pool:
            self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool = None

    def _workers(self) -> set[BaseProcess]:
        return set(multiprocessing.active_children()) - self.others

    def _new_pool(self) -> ProcessPoolExecutor:
        # never forked from this process: a worker could not use CUDA and would inherit the threads of our libraries
        context = context_of(self.runner)
        return ProcessPoolExecutor(self.size, mp_context=context, initializer=prepare, initargs=(environment(),))

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.pool:
            self.pool.shutdown(wait=True)
        elif kind and issubclass(kind, KeyboardInterrupt):
            self.stop()
        else:
            self.dismiss()
        end_server()


def _results(future: Future[list[Done]], runs: int) -> list[Done]:
    """How the runs of one worker ended; those of a killed worker are unfinished."""
    return [Done("", False, 0.0, unfinished=_KILLED)] * runs if _was_killed(future) else future.result()


def _was_killed(future: Future[list[Done]]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


def _retrying(running: dict[Future[list[Done]], tuple[list[J], bool]]) -> bool:
    return any(retry for _, retry in running.values())


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Set the numbers of threads that libraries read at import, before the workers start."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
