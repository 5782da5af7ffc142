r"""What becomes of a step's errors: steps of the weights at once, or gradients.

Letters: a lanes, b rows, i in, o out.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lit_fa.federated.algorithms import FederatedAlgorithm
from lit_fa.federated.client_batch import Lanes
from lit_fa.federated.dense import Dense, Workspace
from lit_fa.federated.round_task import LocalTraining
from lit_fa.rules.base import Batch, Tensors


class Rows(NamedTuple):
    """Which rows of a step count.

    Attributes:
        counts: (a,) on the CPU, valid rows of each lane.
        valid: (a, b), 1 or 0.
        weights: (a, b), the row's weight in the mean over its lane's batch, 0 for padding.
    """

    counts: Tensor
    valid: Tensor
    weights: Tensor


class Movement:
    """Where the errors of a step go: into the weights at once, or into gradients for algorithm and optimiser."""

    def __init__(self, local: LocalTraining, lanes: Lanes):
        """See the class."""
        self.local, self.lanes, self.lr = local, lanes, lanes.work.lr
        self.at_once = local.optimizer.plain and type(local.algorithm).correct is FederatedAlgorithm.correct
        self.keep = 1 - self.lr * local.optimizer.weight_decay if self.at_once else 1.0
        self.like = next(iter(lanes.params.values()))
        self.space = Workspace(self.like)
        self.grads: Tensors = {}

    def layer(self, layer: Dense, error: Tensor, x: Tensor) -> None:
        """Of a layer with inputs x (a, b, i) and error (a, b, o); the last use of its weights in a step."""
        self.weight(layer.weight, error, x)
        if layer.bias is not None:
            self.bias(layer.bias, error)

    def weight(self, name: str, error: Tensor, x: Tensor) -> None:
        """error^T x."""
        held = self.lanes.params[name]
        if self.at_once:
            held.baddbmm_(error.mT, x, beta=self.keep, alpha=-self.lr)
        else:
            self.grads[name] = torch.bmm(error.mT, x, out=self.space(name, *held.shape))

    def columns(self, name: str, first: int, error: Tensor, x: Tensor) -> None:
        """Add error^T x, for few columns x, to those of a weight from the first on; `weight` has had the rest."""
        held, scale = (self.lanes.params, -self.lr) if self.at_once else (self.grads, 1)
        part = torch.bmm(x.mT, error).mT  # this way round five times as fast as the other
        held[name][..., first : first + x.shape[-1]].add_(part, alpha=scale)

    def bias(self, name: str, error: Tensor) -> None:
        """The sum of the error over rows."""
        if not self.at_once:
            self.grads[name] = error.sum(1)
            return
        held = self.lanes.params[name]
        if self.keep != 1:
            held.mul_(self.keep)
        held.sub_(error.sum(1), alpha=self.lr)

    def finish(self, step: int) -> None:
        """Take the step, if it has not been taken layer by layer."""
        if self.at_once:
            return
        lanes = self.lanes
        self.local.algorithm.correct(self.grads, lanes.params, lanes.work.params, lanes.states, lanes.work.server)
        self.local.optimizer.step(lanes.params, self.grads, lanes.optimizer, step, self.lr)


class Written(Protocol):
    """A rule that is written out for a chain of dense layers."""

    def __call__(self, batch: Batch, rows: Rows, lanes: Lanes, movement: Movement) -> tuple[Tensor, Tensor]:
        """Move all layers; returns losses (a, b) and whether rows were right (a, b)."""
