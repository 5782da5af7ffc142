"""Which executor runs the rounds of a federation, and the error of a round whose loss is not finite."""

import math
from typing import Any

from lit_fa.federated.executors import Executor, executor_named, fastest
from lit_fa.federated.round_task import LocalTraining, RoundTask
from lit_fa.federated.sequential import SequentialExecutor
from lit_fa.modules.finite import NonFiniteLossError, watched
from lit_fa.rules.learner import Learner


def agreed_executor(module: Any, own: RoundTask | None) -> Executor:
    """The executor of all ranks; with `auto`, timed in the first round on rank 0, which always has a client.

    Args:
        module: the `FederatedClassifier`; its `executor` and `executed_by` are set in the first round.
        own: the round of this rank's clients; None if it has none. The first call is collective.
    """
    executor: Executor | None = module.executor
    if executor is None:
        report = None
        if module.global_rank == 0 and own is not None:
            executor, report = fastest(module.learner, module.local, own, module.lanes)
        module.executed_by = module.trainer.strategy.broadcast(report or {})
        module.executor = executor = executor or executor_named(module.executed_by["executor"], module.lanes)
        for logger in module.trainer.loggers:
            logger.log_hyperparams({"executor": module.executed_by["executor"]})
    return executor


def check_clients(loss: float, task: RoundTask, learner: Learner, local: LocalTraining) -> None:
    """Raise an error if the loss of a round is not finite; the round is repeated to find where.

    Raises:
        NonFiniteLossError: names the round and the first tensor that is not finite.
    """
    if math.isfinite(loss):
        return
    with watched(learner.network) as modules:  # one client after another
        SequentialExecutor().run(learner, local, task)
    first = f"the output of {modules[0]}" if modules else "the loss itself"
    raise NonFiniteLossError(
        f"the clients' loss is {loss} in round {task.round.number}; first not finite: {first}",
        "The last checkpoint stays; lower the learning rate of model.init_args.local_optimizer.",
        step=task.round.number,
        first=first,
    )
