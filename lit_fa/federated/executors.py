"""The executor of a run: named by the user, or the fastest of those that can do the work, timed on its first steps."""

import logging
import statistics
import time
from dataclasses import replace

from lit_fa.errors import UserError, nearest
from lit_fa.federated.client_batch import LaneExecutor
from lit_fa.federated.features import Features
from lit_fa.federated.round_task import Learner, LocalTraining, Work
from lit_fa.federated.sequential import SequentialExecutor
from lit_fa.federated.stacked import StackedExecutor
from lit_fa.federated.vmapped import VmapExecutor

log = logging.getLogger(__name__)
EXECUTORS = ("sequential", "vmap", "stacked", "auto")
STEPS, TRIALS = 8, 3  # timed steps of a trial, and trials of each executor after one that does not count
Executor = SequentialExecutor | LaneExecutor


def executor_named(name: str, lanes: int | None = None) -> Executor:
    """The executor called `sequential`, `vmap` or `stacked`; `lanes` is for the last two.

    Raises:
        UserError: another name.
    """
    if name not in EXECUTORS[:3]:
        raise UserError(f"executor is one of {', '.join(EXECUTORS)}, not '{name}'; {nearest(name, [*EXECUTORS])}")
    return (
        SequentialExecutor()
        if name == "sequential"
        else {"vmap": VmapExecutor, "stacked": StackedExecutor}[name](lanes)
    )


def checked(executor: Executor, learner: Learner, local: LocalTraining) -> Executor:
    """The executor, or a `UserError` that says why it cannot do this work."""
    if reason := executor.refusal(learner, local):
        raise UserError(f"executor {executor.name}: {reason}; set executor: sequential or auto")
    return executor


def fastest(
    learner: Learner, local: LocalTraining, work: Work, features: Features | None, lanes: int | None
) -> tuple[Executor, dict]:
    """Time a few steps of every executor that can do the work, in turns.

    Returns:
        The quickest, and what was found: its name, seconds of each, and why others were refused.
    """
    refused: dict[str, str] = {}
    able = []
    for executor in (executor_named(name, lanes) for name in EXECUTORS[:3]):
        reason = executor.refusal(learner, local) or _fails(executor, learner, local, _beginning(work), features)
        if reason:
            refused[executor.name] = reason
        else:
            able.append(executor)
    seconds: dict[str, list[float]] = {executor.name: [] for executor in able}
    for _ in range(TRIALS if len(able) > 1 else 0):
        for executor in able:
            start = time.perf_counter()
            executor.run(learner, local, _beginning(work), features)
            seconds[executor.name].append(time.perf_counter() - start)
    times = {name: statistics.median(values) for name, values in seconds.items() if values}
    best = min(able, key=lambda executor: times.get(executor.name, 0.0))
    found = {"executor": best.name, "seconds": times, "refused": refused}
    log.info("executor %s of %s", best.name, {name: f"{1e3 * t:.1f} ms" for name, t in times.items()} or "one")
    return best, found


def _fails(executor: Executor, learner: Learner, local: LocalTraining, work: Work, features: Features | None) -> str:
    """The first line of what goes wrong in a first trial of an executor, or nothing."""
    try:
        executor.run(learner, local, work, features)
    except (RuntimeError, NotImplementedError) as error:  # what vmap and its kind raise for what they cannot map
        if executor.name == "sequential":
            raise
        return str(error).strip().splitlines()[0][:200]
    return ""


def _beginning(work: Work) -> Work:
    """The first steps of the work."""
    places, rows = work.round.places[:, :STEPS], work.round.rows[:, :STEPS]
    return replace(work, round=replace(work.round, places=places, rows=rows))
