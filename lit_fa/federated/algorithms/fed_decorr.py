r"""FedDecorr: the dimensions of the representation are kept uncorrelated, against dimensional collapse.

Shi et al. 2023, arXiv:2210.00226: the loss gains $\tfrac\beta{d^2} \|K\|_F^2$, K the correlation matrix of the
representation over the batch. FLFA's code, as here, takes the mean square of K's off-diagonal entries instead; the
diagonal is constant, so the two differ by the factor d / (d - 1).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lit_fa.federated.algorithms.base import FederatedAlgorithm, positive


@dataclass(frozen=True)
class FedDecorr(FederatedAlgorithm):
    """beta: strength of the penalty, 0.1 in paper and code."""

    paper: ClassVar[str] = "Shi et al. 2023, arXiv:2210.00226"
    wants_features: ClassVar[bool] = True
    beta: float = 0.1

    def __post_init__(self):
        """Refuse a negative strength."""
        positive("FedDecorr: beta", self.beta)

    def penalty(self, features: Tensor, of_server: None, of_previous: None) -> Tensor:
        """beta times the mean squared off-diagonal correlation; zero for a batch of one row or one dimension."""
        rows, d = features.shape
        if rows < 2 or d < 2:
            return 0.0 * features.sum()
        z = features - features.mean(0)
        z = z / (z.square().mean(0) + 1e-8).sqrt()
        squares = (z.mT @ z / rows).square()
        return self.beta * (squares.sum() - squares.diagonal().sum()) / (d * (d - 1))
