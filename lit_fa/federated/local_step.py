"""One local step's scalar: the rule's, and what the algorithm adds to it. The same function for every executor."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call

from lit_fa.federated.features import Features
from lit_fa.federated.work import Learner
from lit_fa.rules.base import Batch, Surrogate, Tensors

Evaluate = Callable[[Batch], Surrogate]


def with_penalty(
    learner: Learner,
    evaluate: Evaluate,
    batch: Batch,
    *,
    penalty: Callable,
    features: Features,
    anchor: Tensors,
    previous: Tensors,
    buffers: Tensors,
) -> Surrogate:
    """The rule's surrogate plus the algorithm's penalty on the representation.

    Args:
        learner: whose representation is looked at.
        evaluate: the rule's surrogate with the client's parameters.
        batch: inputs (b, ...) and targets (b,).
        penalty: (local, global, previous) representations to a scalar.
        features: where the representation is.
        anchor: the server's parameters.
        previous: the client's own parameters of its last round; empty if the algorithm
            compares no models.
        buffers: the server's; the two models of comparison run in evaluation mode.
    """
    with features.recorded() as local:
        surrogate = evaluate(batch)
    models = (anchor, previous) if previous else ()
    others = [represented(learner, features, batch, model, buffers) for model in models] or [None, None]
    extra = penalty(local[0], *others)
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
