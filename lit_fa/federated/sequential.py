"""One client after another on the learner itself: any network, any rule; the reference for the other executors."""

from functools import reduce

import torch
from torch import Tensor

from lit_fa.federated.client_step import Gradient, TrainingClient, client_step, counted, local_surrogate
from lit_fa.federated.round_task import (
    LocalTraining,
    RoundResult,
    RoundTask,
    changing_buffers,
    client_seed,
    trainable,
)
from lit_fa.rules.base import Tensors
from lit_fa.rules.learner import Learner


class SequentialExecutor:
    """One model for all clients; no data loader, optimiser object or copy of the module per client."""

    name = "sequential"

    def refusal(self, learner: Learner, local: LocalTraining) -> str | None:
        """Nothing is refused."""
        return None

    def run(self, learner: Learner, local: LocalTraining, task: RoundTask) -> RoundResult:
        """Train every client of the task; afterwards the learner's parameters and buffers are as before."""
        result, changing, buffers = RoundResult(), changing_buffers(learner), dict(learner.named_buffers())
        client = TrainingClient(
            params={name: p.detach() for name, p in trainable(learner).items()},
            buffers={name: buffers[name] for name in changing},
            shared={name: b for name, b in buffers.items() if name not in changing},
            optimizer_state={},
            state={},
        )
        cuda = sorted({p.device.index for p in task.params.values() if p.device.type == "cuda"})
        try:
            for index, id in enumerate(task.round.clients):
                _load(task, client)
                client.optimizer_state = local.optimizer.init(client.params)
                client.state = task.states[index]
                with torch.random.fork_rng(cuda):
                    torch.manual_seed(client_seed(local.seed, task.round.number, id))
                    gradient = backward_gradient(learner, local, task, index)
                    steps = task.round.steps[index]
                    totals = [client_step(learner, local, task, client, step, gradient) for step in range(steps)]
                params, changed, state = (_as_stack(t) for t in (client.params, client.buffers, client.state))
                alone, total = task.take([index]), reduce(torch.add, totals)
                result.add(alone.result(local.algorithm, params, changed, state, steps, total))
        finally:
            _load(task, client)
            _clear(learner)
        return result


def backward_gradient(learner: Learner, local: LocalTraining, task: RoundTask, index: int) -> Gradient:
    """The gradient by one backward pass on the learner, or by one pass per block if activations are streamed."""
    params = trainable(learner)

    @torch.enable_grad()
    def gradient(client: TrainingClient, step: int) -> tuple[Tensors, Tensor]:
        batch = task.round.batch(index, step)
        _clear(learner)
        if local.stream:
            surrogate = learner.stream(batch, Tensor.backward)
        else:
            surrogate = local_surrogate(learner, learner, batch, local, task, client.state)
            surrogate.value.backward()
        grads = {name: p.grad for name, p in params.items() if p.grad is not None}
        return grads, counted(surrogate.loss, surrogate.logits, batch[1])

    return gradient


@torch.no_grad()
def _load(task: RoundTask, client: TrainingClient) -> None:
    """Copy the server's tensors into the learner."""
    for own, server in ((client.params, task.params), (client.buffers, task.buffers)):
        for name, tensor in own.items():
            tensor.copy_(server[name])


def _clear(learner: Learner) -> None:
    for p in learner.parameters():
        p.grad = None


def _as_stack(tensors: Tensors) -> Tensors:
    """Tensors (...) as (1, ...)."""
    return {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}
