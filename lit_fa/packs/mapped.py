"""The gradients of several runs by `torch.vmap`, for networks and rules without explicit steps.

A lane's gradient is that of the run alone but for rounding. On a CPU it takes longer than the runs' own steps, one
after another (docs/written_steps.md); on a graphics card it takes as many launches for all runs as for one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from lit_fa.rules.base import Batch, Tensors
from lit_fa.rules.learner import Learner
from lit_fa.rules.mapping import mapped
from lit_fa.written.workspace import Workspace


class MappedGradient:
    """The gradients of all lanes, as `written.error_gradient.ErrorGradient`.

    Args:
        learners: with equal `statics`.
    """

    def __init__(self, learners: Sequence[Learner]):
        """See the class."""
        self.learner = learners[0]
        self.of_all = mapped(self._value)

    def __call__(
        self, tensors: Tensors, grads: Tensors, inputs: Sequence[Tensor], targets: Tensor, space: Workspace
    ) -> tuple[Tensor, Tensor]:
        """Write the gradients (k, ...) of one batch for each lane; returns losses (k,) and logits (k, n, c)."""
        trained = {name: tensors[name] for name in grads}
        others = {name: tensor for name, tensor in tensors.items() if name not in grads}
        with torch.enable_grad():
            found, (losses, logits) = self.of_all(trained, others, (torch.stack([*inputs]), targets))
        for name, grad in found.items():
            grads[name].copy_(grad)
        return losses.detach(), logits.detach()

    def _value(self, trained: Tensors, others: Tensors, batch: Batch) -> tuple[Tensor, Any]:
        surrogate = functional_call(self.learner, (trained, others), (batch,))
        return surrogate.value, (surrogate.loss, surrogate.logits)
