"""All clients at once through `torch.func.vmap`: any rule on any network that vmap can map."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lit_fa.federated.client_batch import LaneExecutor, Lanes
from lit_fa.federated.features import Features
from lit_fa.federated.local_step import counted, local_surrogate
from lit_fa.federated.round_task import Learner, LocalTraining
from lit_fa.rules.base import Batch, Does, Tensors


class VmapExecutor(LaneExecutor):
    """vmap of grad of the learner, over stacked parameters.

    Lanes whose batches have the same number of rows are mapped together; so a last batch that is not full is exactly
    what the client would see alone, whatever the rule does with a batch.
    """

    name = "vmap"

    def refusal(self, learner: Learner, local: LocalTraining) -> str | None:
        """Why this learner cannot be mapped, or None. What vmap itself refuses shows when it is tried."""
        for name, module in learner.named_modules():
            if getattr(module, "p", None) and isinstance(module, nn.modules.dropout._DropoutNd):
                return f"{name} draws random numbers: vmap would draw others than a client alone"
            if getattr(module, "drop_prob", None):
                return f"{name} draws random numbers: vmap would draw others than a client alone"
        if getattr(learner.rule, "schedule", "simultaneous") == "greedy":
            return "whose turn it is in a greedy schedule is the state of a client alone"
        return "stream frees one block at a time, which needs a client alone" if local.stream else None

    def train(self, learner: Learner, local: LocalTraining, lanes: Lanes, features: Features | None) -> Tensor:
        """Take all local steps in place."""
        totals = torch.zeros(3, dtype=torch.float64, device=next(iter(lanes.params.values())).device)
        gradient = mapped_gradient(learner, local, lanes, features)
        does = learner.rule.does
        for step in range(lanes.work.round.steps[0]):
            lanes.advance(step)
            grads, seen = self._gradients(gradient, lanes, step)
            totals += seen
            if Does.EDITS in does:
                edit = partial(learner.edited, progress=lanes.work.progress(step))
                grads = grads | vmap(edit)(lanes.params, grads)
            local.algorithm.correct(grads, lanes.params, lanes.work.params, lanes.states, lanes.work.server)
            local.optimizer.step(lanes.params, grads, lanes.optimizer, step, lanes.work.lr)
            if Does.EVOLVES in does:
                _renew(learner, lanes, step)
        return totals.cpu()

    def _gradients(self, gradient, lanes: Lanes, step: int) -> tuple[Tensors, Tensor]:
        """Gradients (a, ...) by name, and (3,) loss times samples, correct, samples."""
        rows = lanes.work.round.rows[: lanes.active, step]
        if bool((rows == rows[0]).all()):
            batch = lanes.work.round.stacked(lanes.active, step)
            return _measured(gradient(lanes.params, lanes.buffers, batch, lanes.states), batch[1])
        whole: Tensors = {}
        totals = 0
        for size in rows.unique().tolist():
            chosen = (rows == size).nonzero().flatten()
            batch = _stacked([lanes.work.round.batch(lane, step) for lane in chosen.tolist()])
            params, buffers, states = (_at(t, chosen) for t in (lanes.params, lanes.buffers, lanes.states))
            grads, seen = _measured(gradient(params, buffers, batch, states), batch[1])
            for name, b in buffers.items():
                lanes.buffers[name].index_copy_(0, chosen.to(b.device), b)
            for name, g in grads.items():
                whole.setdefault(name, torch.empty_like(lanes.params[name])).index_copy_(0, chosen.to(g.device), g)
            totals = totals + seen
        return whole, totals


def mapped_gradient(learner: Learner, local: LocalTraining, lanes: Lanes, features: Features | None):
    """(params, buffers, batch, states), each with a lane dimension, to (gradients, (losses (a,), logits (a, b, c)))."""
    work, shared = lanes.work, lanes.shared

    def value(params: Tensors, buffers: Tensors, batch: Batch, own: Tensors):
        def evaluate(batch: Batch):
            return functional_call(learner, (params, {**shared, **buffers}), (batch,))

        surrogate = local_surrogate(learner, evaluate, batch, local, work, features, own)
        return surrogate.value, (surrogate.loss, surrogate.logits)

    return vmap(grad(value, has_aux=True))


def _measured(mapped: tuple, targets: Tensor) -> tuple[Tensors, Tensor]:
    grads, (losses, logits) = mapped
    return _own(grads), counted(losses, logits, targets)


def _own(grads: Tensors) -> Tensors:
    """Gradients that may be written into: parameters that are added to each other share one tensor."""
    seen: set[int] = set()
    apart = {}
    for name, g in grads.items():
        apart[name] = g.clone() if g.data_ptr() in seen or 0 in g.stride() else g
        seen.add(g.data_ptr())
    return apart


def _renew(learner: Learner, lanes: Lanes, step: int) -> None:
    progress, shared = lanes.work.progress(step + 1), lanes.shared

    def renew(params: Tensors, buffers: Tensors) -> tuple[Tensors, Tensors]:
        return learner.evolved(params, {**shared, **buffers}, progress)

    # what a rule draws here is of its own seed and the step, the same for every client
    renewed = vmap(renew, randomness="same")(lanes.params, lanes.buffers)
    for held, new in zip((lanes.params, lanes.buffers), renewed, strict=True):
        for name, tensor in new.items():
            held[name].copy_(tensor)


def _stacked(batches: list[Batch]) -> Batch:
    return torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches])


def _at(tensors: Tensors, lanes: Tensor) -> Tensors:
    return {name: t.index_select(0, lanes.to(t.device)) for name, t in tensors.items()}
