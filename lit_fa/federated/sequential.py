"""One client after another on the learner itself: any network, any rule; the reference for the other executors."""

import torch
from torch import Tensor

from lit_fa.federated.client_batch import changing_buffers
from lit_fa.federated.features import Features
from lit_fa.federated.local_step import counted, local_surrogate
from lit_fa.federated.round_task import Learner, LocalTraining, Outcome, Work, client_seed, trainable
from lit_fa.rules.base import Batch, Surrogate, Tensors


class SequentialExecutor:
    """A reused model and index tensors: no data loader, no optimiser object, no copy of the module a client."""

    name = "sequential"

    def refusal(self, learner: Learner, local: LocalTraining) -> str | None:
        """Nothing is refused."""
        return None

    def run(self, learner: Learner, local: LocalTraining, work: Work, features: Features | None = None) -> Outcome:
        """Train every client of the piece of work; the learner's parameters and buffers are as before afterwards."""
        params, buffers = trainable(learner), dict(learner.named_buffers())
        changing = {name: buffers[name] for name in sorted(changing_buffers(learner, work))}
        outcome = Outcome({}, {}, {})
        devices = sorted({t.device.index for t in work.params.values() if t.device.type == "cuda"})
        try:
            for lane, client in enumerate(work.round.clients):
                _copy(params, work.params)
                _copy(changing, work.buffers)
                with torch.random.fork_rng(devices):
                    torch.manual_seed(client_seed(local.seed, work.round.number, client))
                    totals = self._train(learner, local, work, lane, features, params)
                outcome.add(_handed_back(local, work, lane, params, changing, totals))
        finally:
            _copy(params, work.params)
            _copy(changing, work.buffers)
        return outcome

    def _train(
        self, learner: Learner, local: LocalTraining, work: Work, lane: int, features: Features | None, params: Tensors
    ) -> Tensor:
        """A client's local steps, in place; returns loss times samples, correct, samples."""
        algorithm, state = local.algorithm, local.optimizer.init(_detached(params))
        own, totals = work.states[lane], 0
        held, changed = _detached(params), dict(learner.named_buffers())
        for step in range(work.round.steps[lane]):
            batch = work.round.batch(lane, step)
            surrogate = self._gradients(learner, local, work, batch, features, own)
            grads = {name: p.grad for name, p in params.items() if p.grad is not None}
            with torch.no_grad():
                edited = grads | learner.edited(held, grads, work.progress(step))
                grads = {n: g for n, g in edited.items() if g is not None}
                algorithm.correct(grads, held, work.params, own, work.server)
                local.optimizer.step(held, grads, state, step, work.lr)
                _renew(held, changed, learner.evolved(held, changed, work.progress(step + 1)))
            totals += counted(surrogate.loss, surrogate.logits, batch[1])
        for p in params.values():
            p.grad = None
        return totals.cpu()

    def _gradients(
        self,
        learner: Learner,
        local: LocalTraining,
        work: Work,
        batch: Batch,
        features: Features | None,
        own: Tensors,
    ) -> Surrogate:
        for p in learner.parameters():
            p.grad = None
        if local.stream:
            return learner.stream(batch, Tensor.backward)
        surrogate = local_surrogate(learner, learner, batch, local, work, features, own)
        surrogate.value.backward()
        return surrogate


def _handed_back(
    local: LocalTraining, work: Work, lane: int, params: Tensors, buffers: Tensors, totals: Tensor
) -> Outcome:
    share, fraction = float(work.shares[lane]), float(work.fractions[lane])
    held, own = _detached(params), work.states[lane]
    new = local.algorithm.new_state(held, work.params, own, work.server, work.round.steps[lane], work.lr)
    update = {name: (work.params[name] - p) * share for name, p in held.items()}
    averaged = {n: b * fraction if b.is_floating_point() else b.clone() for n, b in buffers.items()}
    change = {name: t - own[name] for name, t in new.items()} if local.algorithm.has_server_state else {}
    kept = {work.round.clients[lane]: {name: t.clone() for name, t in new.items()}} if new else {}
    return Outcome(update, averaged, change, kept, totals)


def _renew(params: Tensors, buffers: Tensors, changed: tuple[Tensors, Tensors]) -> None:
    for held, new in zip((params, buffers), changed, strict=True):
        for name, tensor in new.items():
            held[name].copy_(tensor)


def _detached(params: Tensors) -> Tensors:
    return {name: p.detach() for name, p in params.items()}


@torch.no_grad()
def _copy(to: Tensors, values: Tensors) -> None:
    for name, tensor in to.items():
        tensor.copy_(values[name])
