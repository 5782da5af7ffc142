"""One local step of a client; every executor calls `client_step`.

    gradient of the surrogate -> rule's edit -> algorithm's correction -> local optimiser's update -> rule's after_step

The sequential executor applies it to one client after another. The others apply it to a batch of clients, whose
tensors have a leading dimension (k, ...); `each` then maps the functions of a single client over it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from lit_fa.federated.features import Features
from lit_fa.federated.local_optimizers import State
from lit_fa.federated.round_task import LocalTraining, RoundTask
from lit_fa.rules.base import Batch, Does, Surrogate, Tensors
from lit_fa.rules.learner import Learner


@dataclass
class TrainingClient:
    """A client during training, or a batch of clients, whose tensors are (k, ...).

    Attributes:
        params: trainable parameters, by the learner's names.
        buffers: those that local steps may change.
        shared: the other buffers, without a leading dimension.
        optimizer_state: of the local optimiser.
        state: what the algorithm stores for the client from round to round.
    """

    params: Tensors
    buffers: Tensors
    shared: Tensors
    optimizer_state: State
    state: Tensors


# (client, step) to gradients by name and the sums of `counted`
Gradient = Callable[[TrainingClient, int], tuple[Tensors, Tensor]]
# a function of one client to one of several clients
Each = Callable[[Callable[..., Any]], Callable[..., Any]]


@torch.no_grad()
def client_step(
    learner: Learner,
    local: LocalTraining,
    task: RoundTask,
    client: TrainingClient,
    step: int,
    gradient: Gradient,
    each: Each = lambda function: function,
) -> Tensor:
    """Take one local step in place.

    Args:
        learner: network and rule.
        local: algorithm and local optimiser.
        task: of the clients in this step.
        client: whose tensors change.
        step: counts from 0 in the round.
        gradient: of the surrogate. A gradient that is missing leaves its parameter as it is.
        each: turns a function of one client into one of `client`: the identity, or `torch.vmap`.

    Returns:
        (3,) float64: loss times samples, correct predictions, samples.
    """
    does, params = learner.rule.does, client.params
    grads, totals = gradient(client, step)
    for name in learner.measured():
        params[name].copy_(grads.pop(name))
    if Does.EDITS in does:
        edited = each(partial(learner.edited, progress=task.progress(step)))(params, grads)
        grads = {name: grad for name, grad in (grads | edited).items() if grad is not None}
    if grads:
        local.algorithm.correct(grads, params, task.params, client.state, task.server)
        local.optimizer.step(params, grads, client.optimizer_state, step, task.lr)
    if Does.EVOLVES in does:
        after = partial(learner.evolved, progress=task.progress(step + 1))
        evolved = each(lambda params, buffers: after(params, {**client.shared, **buffers}))(params, client.buffers)
        for old, new in zip((params, client.buffers), evolved, strict=True):
            for name, tensor in new.items():
                old[name].copy_(tensor)
    return totals


def local_surrogate(
    learner: Learner,
    evaluate: Callable[[Batch], Surrogate],
    batch: Batch,
    local: LocalTraining,
    task: RoundTask,
    previous: Tensors,
) -> Surrogate:
    """The rule's surrogate, plus the algorithm's penalty on the representation if it has one.

    Args:
        learner: whose representation is recorded.
        evaluate: the rule's surrogate with the client's parameters.
        batch: inputs (b, ...) and targets (b,).
        local: its algorithm has the penalty, its `features` record the representation.
        task: the server's parameters and buffers; the two models of comparison run in evaluation mode.
        previous: the client's own parameters of its last round; empty if the algorithm compares no models.
    """
    if local.features is None:
        return evaluate(batch)
    with local.features.recorded() as own:
        surrogate = evaluate(batch)
    models = (task.params, previous) if previous else ()
    others = [represented(learner, local.features, batch, params, task.buffers) for params in models]
    of_server, of_previous = others if others else (None, None)
    penalty = local.algorithm.penalty(own[0], of_server, of_previous)
    return surrogate._replace(value=surrogate.value + penalty)


def represented(learner: Learner, features: Features, batch: Batch, params: Tensors, buffers: Tensors) -> Tensor:
    """The representation (b, d) under other parameters, without gradient."""
    mode = learner.training
    learner.eval()
    try:
        with torch.no_grad(), features.recorded() as recorded:
            functional_call(learner, (params, buffers), (batch,))
        return recorded[0]
    finally:
        learner.train(mode)


def counted(losses: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """(3,) float64 on the tensors' device: loss times samples, correct predictions, samples.

    Args:
        losses: (), or (k,) of a batch of clients.
        logits: (b, c), or (k, b, c).
        targets: (b,), or (k, b).
    """
    correct = (logits.argmax(-1) == targets).sum()
    loss = losses.double().sum() * targets.shape[-1]
    return torch.stack([loss, correct.double(), correct.new_tensor(targets.numel()).double()])
