"""Where the explicit executor's gradients go: straight into the weights where nothing comes between, else to the
algorithm and the local optimiser."""

import torch
from torch import Tensor

from lit_fa.federated.algorithms import FederatedAlgorithm
from lit_fa.federated.dense import Dense
from lit_fa.federated.lanes import Lanes
from lit_fa.federated.work import LocalTraining
from lit_fa.rules.base import Tensors


class Updates:
    """Takes the deltas of one step after the other.

    With plain SGD and an algorithm that corrects nothing the product of delta and input is added to the weights in one
    operation, and no gradient tensor exists.
    """

    def __init__(self, local: LocalTraining, lanes: Lanes):
        """See the class."""
        self.local, self.lanes = local, lanes
        untouched = type(local.algorithm).correct is FederatedAlgorithm.correct
        self.direct = local.optimizer.plain and untouched
        self.lr, self.keep = lanes.work.lr, 1 - lanes.work.lr * local.optimizer.weight_decay
        self.grads: Tensors = {}

    def dense(self, layer: Dense, delta: Tensor, inputs: Tensor) -> None:
        """The update of a layer: delta (a, b, o), inputs (a, b, i)."""
        params = self.lanes.params
        if self.direct:
            params[layer.weight_name].baddbmm_(delta.mT, inputs, beta=self.keep, alpha=-self.lr)
            if layer.bias:
                params[layer.bias_name].mul_(self.keep).sub_(delta.sum(1), alpha=self.lr)
            return
        self.grads[layer.weight_name] = torch.bmm(delta.mT, inputs)
        if layer.bias:
            self.grads[layer.bias_name] = delta.sum(1)

    def columns(self, layer: Dense, delta: Tensor, inputs: Tensor, begin: int) -> None:
        """The same for some columns of the layer's weight, from `begin` on, on top of what `dense` has done."""
        target = self.lanes.params if self.direct else self.grads
        part = target[layer.weight_name][:, :, begin : begin + inputs.shape[2]]
        part.add_(torch.bmm(delta.mT, inputs), alpha=-self.lr if self.direct else 1)

    def apply(self, step: int) -> None:
        """At the end of a step: let the algorithm and the optimiser do their part."""
        if self.direct:
            return
        lanes, work = self.lanes, self.lanes.work
        self.local.algorithm.correct(self.grads, lanes.params, work.params, lanes.states, work.server)
        self.local.optimizer.step(lanes.params, self.grads, lanes.optimizer, step, work.lr)
        self.grads = {}


def row_weights(rows: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """(a, b): one over the rows of the lane, zero for rows that are padding. rows: (a,) on the CPU; y: (a, b)."""
    rows = rows.to(y.device)
    valid = torch.arange(y.shape[1], device=y.device) < rows[:, None]
    return valid.to(dtype) / rows[:, None]
