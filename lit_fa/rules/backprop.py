r"""Backpropagation, the baseline: the error of a layer is that of the next, through the weights of the next.

$\delta_{l-1} = (\delta_l W_l) \odot \phi'(z_{l-1})$, $G_l = \delta_l^\top h_{l-1}$ (Rumelhart et al. 1986).
"""

from typing import ClassVar

from torch import Tensor, nn

from lit_fa.errors import check_literals
from lit_fa.layers.coverage import Coverage
from lit_fa.rules.base import UNUSED, Criterion, LearningRule, Uncovered, refuse


class Backprop(LearningRule):
    """Ordinary gradients.

    Args:
        uncovered: what to do about trainable tensors that receive no gradient: `raise`, `warn` or `allow`.

    Raises:
        UserError: an unknown `uncovered`; at `install`, if it is `raise`, tensors without gradient.
    """

    paper: ClassVar[str] = "Rumelhart, Hinton & Williams 1986"

    def __init__(self, uncovered: Uncovered = "allow"):
        """See the class."""
        super().__init__()
        check_literals(Backprop, locals())
        self.uncovered = uncovered

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Only check that every tensor receives a gradient."""
        untreated = self.inspect(network, example, criterion)
        refuse("no gradient reaches", untreated.unreached, UNUSED, uncovered=self.uncovered)
        return untreated
