"""Running what is missing: N spawned workers, each taking runs one after the other."""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from lit_fa.jobs.progress import Reporter
from lit_fa.jobs.worker import Done, prepare, work
from lit_fa.stopping import Request, handled

DEFAULT_RUNNER = "lit_fa.experiment:run"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_KILLED = "the worker was killed by the system, twice (out of memory?)"
GRACE_S = 60.0  # for workers that are asked to stop, to end their step and keep a checkpoint
_LOOK_S = 0.2  # between two looks for a signal
_NO_MORE = object()  # the jobs have come to their end


@dataclass(frozen=True)
class Job:
    """One run to carry out: what a person calls it, the runner's config, the head of its record, the file of its log.

    The head has `path`, where the runner writes the record, `id`, and whatever else the record is to say.
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
) -> Generator[Outcome[J], None, None]:
    """Runs the jobs in order on `workers` processes and yields each outcome as it comes.

    A worker that the system kills takes its pool with it: the runs in flight are retried once, each alone, so that
    the one that needs too much memory is found and the others are not blamed. A run whose worker alone gets SIGTERM is
    retried once too. What is ended twice is not finished, which is no failure. SIGINT, SIGTERM and SIGHUP ask the
    workers to keep a checkpoint and stop, within `GRACE_S`; a second Ctrl-C, or closing the generator, kills them.
    Records are written atomically, so nothing is left half-done.

    Args:
        jobs: what to run, drawn one by one as workers come free, so that a job may depend on the outcomes before it;
            a None among them says that there is nothing yet; the iterator is asked again until it ends.
        workers: number of processes; each computes with one thread.
        reporter: gets the label of a job that starts or is retried, and hears that the workers are asked to stop; the
            caller reports the end.
        runner: import path `package.module:function` of `runner(config, record) -> None`.

    Raises:
        Stopped: a signal has come.
    """
    fresh, again, asked = iter(jobs), deque[J](), Request()
    crew, flying = _Crew(workers, runner, asked, reporter.stopping), dict[Future[Done], tuple[J, bool]]()
    with _one_thread_each(), handled(asked), crew:
        while True:
            asked.check()
            while len(flying) < (1 if again or _retrying(flying) else workers):
                retry = bool(again)
                job: Any = again.popleft() if retry else next(fresh, _NO_MORE)
                if job is None or job is _NO_MORE:
                    break
                Path(job.record["path"]).parent.mkdir(parents=True, exist_ok=True)
                flying[crew.submit(job)] = (job, retry)
                reporter.started(job.label)
            if not flying and job is _NO_MORE:
                return
            if not flying:
                time.sleep(_LOOK_S)
                continue
            ended, _ = wait(flying, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
            if any(_was_killed(future) for future in ended):
                crew.dismiss()
                ended = set(flying)
            for future, (job, retry) in [(future, flying.pop(future)) for future in [*flying] if future in ended]:
                done = Done("", False, 0.0, unfinished=_KILLED) if _was_killed(future) else future.result()
                if retry or not done.unfinished:
                    yield Outcome(job, done)
                elif not asked.signum:
                    again.append(job)
                    reporter.retried(job.label)


class _Crew:
    """A pool of workers that is rebuilt after the system killed one; they are asked to stop when a signal has come."""

    def __init__(self, size: int, runner: str, asked: Request, on_stop: Callable[[], None]) -> None:
        self.size, self.runner, self.asked, self.on_stop = size, runner, asked, on_stop
        self.pool: ProcessPoolExecutor | None = None
        self.strangers = set(multiprocessing.active_children())

    def submit(self, job: Job) -> Future[Done]:
        """Hands a job to a worker; a pool that broke while it was idle is replaced."""
        # A worker that is being born inherits the blocked signals, which leaves a terminal's to the parent; so does
        # the process that removes the pool's semaphores, which a closed terminal would kill.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            self.pool = self.pool or self._new_pool()
            return self.pool.submit(work, self.runner, job.config, job.record, str(job.log))
        except BrokenProcessPool as broken:
            failed: Future[Done] = Future()
            failed.set_exception(broken)
            return failed
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def stop(self) -> None:
        """Asks the workers to stop, again and again, for one may be just about to take a run; then kills the rest."""
        with suppress(KeyboardInterrupt):  # asked once more
            self.on_stop()
            if self.pool:
                self.pool.shutdown(wait=False, cancel_futures=True)
            until = time.monotonic() + GRACE_S
            while (alive := self._workers()) and time.monotonic() < until and not self.asked.insisted:
                for process in alive:
                    process.terminate()
                connection.wait([process.sentinel for process in alive], timeout=1.0)
        self.dismiss()

    def dismiss(self) -> None:
        """Kills the workers, the idle ones as well; their runs are either recorded or will be run again."""
        for process in self._workers():
            process.kill()
        if self.pool:
            self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool = None

    def _workers(self) -> set[BaseProcess]:
        return set(multiprocessing.active_children()) - self.strangers

    def _new_pool(self) -> ProcessPoolExecutor:
        # spawn, because a forked process cannot use CUDA and inherits the threads of the parent's libraries.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.size, mp_context=context, initializer=prepare)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.pool:
            self.pool.shutdown(wait=True)
        elif kind and issubclass(kind, KeyboardInterrupt):
            self.stop()
        else:
            self.dismiss()


def _was_killed(future: Future[Done]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


def _retrying(flying: dict[Future[Done], tuple[J, bool]]) -> bool:
    return any(retry for _, retry in flying.values())


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """The thread counts that libraries read while they are imported, set before the workers start."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
