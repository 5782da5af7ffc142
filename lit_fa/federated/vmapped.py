"""Several clients at once through `torch.vmap`: any rule on any network that vmap can map."""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.func import functional_call

from lit_fa.federated.client_batch import ClientBatch, ClientBatchExecutor
from lit_fa.federated.client_step import Gradient, TrainingClient, counted, local_surrogate
from lit_fa.federated.round_task import LocalTraining
from lit_fa.rules.base import Batch, Surrogate, Tensors
from lit_fa.rules.learner import Learner
from lit_fa.rules.mapping import mapped, why_not_mapped

MappedGradient = Callable[[Tensors, Tensors, Batch, Tensors], tuple[Tensors, Tensor]]


class VmapExecutor(ClientBatchExecutor):
    """vmap of grad of the learner, over stacked parameters.

    Clients whose batches have the same number of rows are mapped together. So a last batch that is not full is not
    padded, and rules that compare the samples of a batch give the same result as for the client alone.
    """

    name = "vmap"

    def refusal(self, learner: Learner, local: LocalTraining) -> str | None:
        """Why this learner cannot be mapped, or None. Errors of vmap itself occur only when it runs."""
        if reason := why_not_mapped(learner):
            return reason
        return "stream frees one block at a time, which needs a client alone" if local.stream else None

    def gradient(self, learner: Learner, local: LocalTraining, clients: ClientBatch) -> Gradient:
        """The gradient by autograd, mapped over clients."""
        task, of_all = clients.task, mapped_gradient(learner, local, clients)

        def gradient(_: TrainingClient, step: int) -> tuple[Tensors, Tensor]:
            rows = task.round.rows[: clients.active, step]
            if bool((rows == rows[0]).all()):
                batch = task.round.stacked(clients.active, step)
                return of_all(clients.params, clients.buffers, batch, clients.state)
            grads: Tensors = {}
            totals: list[Tensor] = []
            for size in rows.unique().tolist():
                chosen = (rows == size).nonzero().flatten()
                batches = [task.round.batch(index, step) for index in chosen.tolist()]
                inputs, targets = (torch.stack(tensors) for tensors in zip(*batches, strict=True))
                params, buffers, state = (
                    _selected(t, chosen) for t in (clients.params, clients.buffers, clients.state)
                )
                of_chosen, counts = of_all(params, buffers, (inputs, targets), state)
                for name, buffer in buffers.items():
                    clients.buffers[name].index_copy_(0, chosen.to(buffer.device), buffer)
                for name, g in of_chosen.items():
                    whole = grads.setdefault(name, torch.empty_like(clients.params[name]))
                    whole.index_copy_(0, chosen.to(g.device), g)
                totals.append(counts)
            return grads, reduce(torch.add, totals)

        return gradient


def mapped_gradient(learner: Learner, local: LocalTraining, clients: ClientBatch) -> MappedGradient:
    """From (params, buffers, batch, state), each of several clients, to gradients and the sums of `counted`."""

    def value(params: Tensors, buffers: Tensors, batch: Batch, state: Tensors) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        def evaluate(batch: Batch) -> Surrogate:
            return functional_call(learner, (params, {**clients.shared, **buffers}), (batch,))

        surrogate = local_surrogate(learner, evaluate, batch, local, clients.task, state)
        return surrogate.value, (surrogate.loss, surrogate.logits)

    def gradient(params: Tensors, buffers: Tensors, batch: Batch, state: Tensors) -> tuple[Tensors, Tensor]:
        grads, (losses, logits) = mapped(value)(params, buffers, batch, state)
        return _writable(grads), counted(losses, logits, batch[1])

    return gradient


def _writable(grads: Tensors) -> Tensors:
    """Gradients that may be overwritten: copies where several parameters share one tensor."""
    seen: set[int] = set()
    writable = {}
    for name, g in grads.items():
        writable[name] = g.clone() if g.data_ptr() in seen or 0 in g.stride() else g
        seen.add(g.data_ptr())
    return writable


def _selected(tensors: Tensors, clients: Tensor) -> Tensors:
    return {name: tensor.index_select(0, clients.to(tensor.device)) for name, tensor in tensors.items()}
