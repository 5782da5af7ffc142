r"""FedDecorr: the dimensions of the representation are kept uncorrelated, against dimensional collapse.

Shi et al. 2023, arXiv:2210.00226: the loss gains $\tfrac\beta{d^2} \|K\|_F^2$, K the correlation matrix of the
representation over the batch. The authors' code, and FLFA's after it, has another size, and so have we, since both
take their $\beta$ from it: with Z the representation standardised by the unbiased variance,

$\frac{\beta}{b}\, \frac{1}{d (d - 1)} \sum_{j \ne k} (Z^\top Z)_{jk}^2$, where $Z^\top Z = (b - 1) K$.

The diagonal that is left out is constant; what remains is $(b - 1)^2 / b$, nearly the batch size, times
$d / (d - 1)$ as strong as the formula in print.
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

    def __post_init__(self) -> None:
        """Refuse a negative strength."""
        positive("FedDecorr: beta", self.beta)

    def penalty(self, features: Tensor, of_server: Tensor | None, of_previous: Tensor | None) -> Tensor:
        """beta / b times the mean squared off-diagonal entry of Z^T Z; zero for a batch of one row or one dimension."""
        rows, d = features.shape
        if rows < 2 or d < 2:
            return 0.0 * features.sum()
        z = features - features.mean(0)
        z = z / (z.square().sum(0) / (rows - 1) + 1e-8).sqrt()
        squares = (z.mT @ z).square()
        return self.beta / rows * (squares.sum() - squares.diagonal().sum()) / (d * (d - 1))
