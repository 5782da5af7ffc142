r"""Rules that propagate the error at the logits: backpropagation, feedback alignment, direct feedback alignment, DRTP.

With $e$ the derivative of the loss at the logits, $\delta_L = e$ and $G_l = \delta_l^\top h_{l-1}$,

$\delta_{l-1} = (\delta_l B_l) \odot \phi'$ layer by layer, or $\delta_l = (e F_l) \odot \phi'$ directly.

Letters: k lanes, n batch, i in, o out, c classes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_fa.functional.criteria import outputs_wanted
from lit_fa.layers.taps import block_key
from lit_fa.rules.base import LearningRule, Tensors
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment
from lit_fa.rules.learner import Learner
from lit_fa.written.chain import Chain, Unsupported
from lit_fa.written.losses import LOSSES
from lit_fa.written.transport import Transport
from lit_fa.written.workspace import Workspace

Below = Callable[[Tensor, Tensors, Workspace], Tensor]


class ErrorGradient:
    """The gradients of all lanes.

    Args:
        learners: one for each lane, of one architecture and criterion; direct feedback and layer-wise feedback are not
            mixed, nor are the two teachers of direct feedback.
        chains: their networks.
        tensors: name to stacked parameter or buffer (k, ...).
    """

    def __init__(self, learners: Sequence[Learner], chains: Sequence[Chain], tensors: Tensors):
        """See the class."""
        self.layers, self.rule = chains[0].layers, learners[0].rule
        self.loss = LOSSES[learners[0].criterion]
        self.below: list[Below]
        if isinstance(self.rule, DirectFeedbackAlignment):
            self.below = [_Direct(name, number) for number, name in enumerate(self.rule.links)]
        else:
            others = range(1, len(self.layers))
            self.below = [Transport([chain.layers[n] for chain in chains], tensors, f"{n}") for n in others]

    @staticmethod
    def check(rule: LearningRule, chain: Chain) -> None:
        """Raise `Unsupported` for options of the rule that have no explicit gradient."""
        if isinstance(rule, DirectFeedbackAlignment) and rule.storage == "redrawn":
            raise Unsupported("redrawn feedback is not stored")
        if isinstance(rule, DirectFeedbackAlignment) and not chain.is_cut_behind([*rule.links]):
            raise Unsupported("direct feedback does not go to every hidden layer's output")

    def __call__(
        self, tensors: Tensors, grads: Tensors, inputs: Sequence[Tensor], targets: Tensor, space: Workspace
    ) -> tuple[Tensor, Tensor]:
        """Write the gradients (k, ...) of one batch for each lane; returns losses (k,) and logits (k, n, c).

        Args:
            tensors: name to parameter or buffer (k, ...).
            grads: name to the memory of the gradient (k, ...) of every parameter that is trained.
            inputs: k tensors (n, ...). They are not stacked, because a copy takes as long as a narrow layer.
            targets: (k, n).
            space: memory.
        """
        flat = [x.flatten(1) for x in inputs]
        first = space("value 0", *targets.shape[:2], self.layers[0].units)
        values = [self.layers[0].first_output(flat, tensors, first)]
        for number, layer in enumerate(self.layers[1:], 1):
            out = space(f"value {number}", *targets.shape[:2], layer.units)
            values.append(layer.output(values[-1], tensors, out))
        losses, error = self.loss(values[-1], targets)
        teacher = self._teacher(error, targets)
        for number in reversed(range(len(self.layers))):
            layer = self.layers[number]
            layer.activation.backward_(error, values[number])
            layer.gradient(error, values[number - 1] if number else flat, grads)
            if number:
                error = self.below[number - 1](error if teacher is None else teacher, tensors, space)
        return losses, values[-1]

    def _teacher(self, error: Tensor, targets: Tensor) -> Tensor | None:
        """The teaching signal (k, n, c) of direct feedback; None: the error of the layer above."""
        if not isinstance(self.rule, DirectFeedbackAlignment):
            return None
        if self.rule.teacher == "error":
            return error
        hot = outputs_wanted(targets, error)
        return hot / targets.shape[1] if self.rule.target_reduction == "mean" else hot


class _Direct:
    """Sends the teaching signal (k, n, c) to one block, by its direct feedback matrix (k, c, units)."""

    def __init__(self, block: str, number: int):
        self.matrix, self.number = f"rule.feedback.{block_key(block)}.weight", number

    def __call__(self, teacher: Tensor, tensors: Tensors, space: Workspace) -> Tensor:
        matrix = tensors[self.matrix].to(teacher.dtype)
        out = space(f"error {self.number}", *teacher.shape[:2], matrix.shape[-1])
        return torch.bmm(teacher, matrix, out=out)
