r"""Use of the product of a layer's error and input: an immediate update of the weights, or a gradient.

If the local optimiser is plain SGD and the algorithm has no correction, the product updates the weights immediately,
$W \leftarrow (1-\eta\lambda)W - \eta\,\delta^\top h$, and no gradient is stored.

Letters: a active clients, b rows, i in, o out.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lit_fa.federated.client_batch import ClientBatch
from lit_fa.federated.round_task import LocalTraining
from lit_fa.rules.base import Tensors
from lit_fa.written.chain import DenseLayer
from lit_fa.written.workspace import Workspace


class Rows(NamedTuple):
    """Which rows of a step are valid, and which are padding.

    Attributes:
        counts: (a,) on the CPU, valid rows of each client.
        valid: (a, b), 1 or 0.
        weights: (a, b), 1/count or 0: the row's weight in the mean over its client's batch.
    """

    counts: Tensor
    valid: Tensor
    weights: Tensor

    @classmethod
    def none(cls) -> "Rows":
        """Before the first step."""
        return cls(*(torch.empty(0, 0) for _ in range(3)))

    def of(self, counts: Tensor, longest: int, like: Tensor) -> "Rows":
        """The rows of the next step; this object if nothing has changed."""
        if self.valid.shape[1] == longest and torch.equal(counts, self.counts):
            return self
        valid = (torch.arange(longest) < counts.unsqueeze(1)).to(like.dtype)
        return Rows(counts, valid.to(like.device), (valid / counts.unsqueeze(1)).to(like.device))


class ParameterUpdate:
    """Updates the weights of all active clients layer by layer, or collects their gradients in `grads`."""

    def __init__(self, local: LocalTraining, clients: ClientBatch):
        """See the class."""
        self.clients, self.lr = clients, clients.task.lr
        self.at_once = local.optimizer.plain and not local.algorithm.corrects
        self.decay = 1 - self.lr * getattr(local.optimizer, "weight_decay", 0.0) if self.at_once else 1.0
        self.like = next(iter(clients.params.values()))
        self.space = Workspace(self.like)
        self.grads: Tensors = {}

    def layer(self, layer: DenseLayer, error: Tensor, x: Tensor) -> None:
        """Update a layer with inputs x (a, b, i) and error (a, b, o); must be the last use of its weights in a step."""
        self.weight(layer.weight, error, x)
        if layer.bias is not None:
            self.bias(layer.bias, error)

    def weight(self, name: str, error: Tensor, x: Tensor) -> None:
        """Update a weight by error^T x."""
        weight = self.clients.params[name]
        if self.at_once:
            weight.baddbmm_(error.mT, x, beta=self.decay, alpha=-self.lr)
        else:
            self.grads[name] = torch.bmm(error.mT, x, out=self.space(name, *weight.shape))

    def columns(self, name: str, first: int, error: Tensor, x: Tensor) -> None:
        """Update a few columns, from `first` on, by error^T x; `weight` was called for the other columns."""
        tensors, scale = (self.clients.params, -self.lr) if self.at_once else (self.grads, 1)
        part = torch.bmm(x.mT, error).mT  # five times as fast as error.mT @ x
        tensors[name][..., first : first + x.shape[-1]].add_(part, alpha=scale)

    def bias(self, name: str, error: Tensor) -> None:
        """Update a bias by the sum of the error over rows."""
        if not self.at_once:
            self.grads[name] = error.sum(1)
            return
        bias = self.clients.params[name]
        if self.decay != 1:
            bias.mul_(self.decay)
        bias.sub_(error.sum(1), alpha=self.lr)
