"""One local step's scalar: the rule's, and what the algorithm adds to it. The same function for every executor."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call

from lit_fa.federated.features import Features
from lit_fa.federated.round_task import Learner, LocalTraining, Work
from lit_fa.rules.base import Batch, Surrogate, Tensors

Evaluate = Callable[[Batch], Surrogate]


def local_surrogate(
    learner: Learner,
    evaluate: Evaluate,
    batch: Batch,
    local: LocalTraining,
    work: Work,
    features: Features | None,
    previous: Tensors,
) -> Surrogate:
    """The rule's surrogate, plus the algorithm's penalty on the representation if it has one.

    Args:
        learner: whose representation is looked at.
        evaluate: the rule's surrogate with the client's parameters.
        batch: inputs (b, ...) and targets (b,).
        local: its algorithm knows the penalty.
        work: the server's parameters and buffers; the two models of comparison run in evaluation mode.
        features: where the representation is; None: the algorithm does not look at it.
        previous: the client's own parameters of its last round; empty if the algorithm compares no models.
    """
    if features is None:
        return evaluate(batch)
    with features.recorded() as own:
        surrogate = evaluate(batch)
    models = (work.params, previous) if previous else ()
    others = [represented(learner, features, batch, model, work.buffers) for model in models] or [None, None]
    extra = local.algorithm.penalty(own[0], *others)
    return surrogate._replace(value=surrogate.value + extra)


def represented(learner: Learner, features: Features, batch: Batch, params: Tensors, buffers: Tensors) -> Tensor:
    """The representation (b, d) under other parameters, without gradient."""
    mode = learner.training
    learner.eval()
    try:
        with torch.no_grad(), features.recorded() as found:
            functional_call(learner, (params, buffers), (batch,))
        return found[0]
    finally:
        learner.train(mode)


def counted(losses: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """(3,) float64 where the tensors are: loss times samples, correct, samples.

    Args:
        losses: (), or (a,) of lanes.
        logits: (b, c), or (a, b, c).
        targets: (b,), or (a, b).
    """
    correct = (logits.argmax(-1) == targets).sum()
    loss = losses.double().sum() * targets.shape[-1]
    return torch.stack([loss, correct.double(), correct.new_tensor(targets.numel()).double()])
