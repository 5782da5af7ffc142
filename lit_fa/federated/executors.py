"""The executor of a run: named by the user, or the fastest that can train the learner, timed on a few steps."""

import logging
import statistics
import time
from dataclasses import replace
from typing import Any

from lit_fa.errors import UserError, nearest
from lit_fa.federated._dense_chain import StackedExecutor
from lit_fa.federated.client_batch import ClientBatchExecutor
from lit_fa.federated.round_task import LocalTraining, RoundTask
from lit_fa.federated.sequential import SequentialExecutor
from lit_fa.federated.vmapped import VmapExecutor
from lit_fa.rules.learner import Learner

log = logging.getLogger(__name__)
EXECUTORS = ("sequential", "vmap", "stacked", "auto")
STEPS, TRIALS = 8, 3  # timed steps of a trial, and trials of each executor after one that does not count
Executor = SequentialExecutor | ClientBatchExecutor


def executor_named(name: str, lanes: int | None = None) -> Executor:
    """The executor called `sequential`, `vmap` or `stacked`; `lanes`: most clients of a batch of the last two.

    Raises:
        UserError: another name.
    """
    if name == "sequential":
        return SequentialExecutor()
    batched = {"vmap": VmapExecutor, "stacked": StackedExecutor}
    if name not in batched:
        raise UserError(f"executor is one of {', '.join(EXECUTORS)}, not '{name}'; {nearest(name, [*EXECUTORS])}")
    return batched[name](lanes)


def checked(executor: Executor, learner: Learner, local: LocalTraining) -> Executor:
    """The executor, or a `UserError` that says why it cannot train this learner."""
    if reason := executor.refusal(learner, local):
        raise UserError(f"executor {executor.name}: {reason}; set executor: sequential or auto")
    return executor


def fastest(
    learner: Learner, local: LocalTraining, task: RoundTask, lanes: int | None
) -> tuple[Executor, dict[str, Any]]:
    """Time the first steps of a task with every executor that can train the learner, in turns.

    Returns:
        The fastest, and the report: its name, seconds of each, and why the others cannot.
    """
    start = task.round
    task = replace(task, round=replace(start, places=start.places[:, :STEPS], rows=start.rows[:, :STEPS]))
    refused: dict[str, str] = {}
    usable: dict[str, Executor] = {}
    for name in EXECUTORS[:3]:
        executor = executor_named(name, lanes)
        if reason := executor.refusal(learner, local) or _failure(executor, learner, local, task):
            refused[name] = reason
        else:
            usable[name] = executor
    trials: dict[str, list[float]] = {name: [] for name in usable}
    for _ in range(TRIALS if len(usable) > 1 else 0):
        for name, executor in usable.items():
            began = time.perf_counter()
            executor.run(learner, local, task)
            trials[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(values) for name, values in trials.items() if values}
    best = min(usable, key=lambda name: seconds.get(name, 0.0))
    times = ", ".join(f"{name} {1e3 * time:.1f} ms" for name, time in seconds.items())
    log.info("executor %s%s", best, f" (first steps: {times})" if times else "")
    return usable[best], {"executor": best, "seconds": seconds, "refused": refused}


def _failure(executor: Executor, learner: Learner, local: LocalTraining, task: RoundTask) -> str:
    """The first line of the error of a first trial; "" if it succeeds."""
    try:
        executor.run(learner, local, task)
    except (RuntimeError, NotImplementedError) as error:  # what vmap raises for what it cannot map
        if executor.name == "sequential":
            raise
        return str(error).strip().splitlines()[0][:200]
    return ""
