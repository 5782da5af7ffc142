r"""FedDecorr: a penalty on correlations between dimensions of the representation, against dimensional collapse.

Shi et al. 2023, arXiv:2210.00226: the penalty is $\tfrac\beta{d^2} \|K\|_F^2$, with K the correlation matrix of the
representation over the batch. The code of the authors, and that of FLFA, scales it differently. We follow the code,
because the values of $\beta$ belong to it: with Z the representation standardised by the unbiased variance,

$\frac{\beta}{b}\, \frac{1}{d (d - 1)} \sum_{j \ne k} (Z^\top Z)_{jk}^2$, where $Z^\top Z = (b - 1) K$.

The omitted diagonal is constant. The remaining term is $(b - 1)^2 / b$ (nearly the batch size) times $d / (d - 1)$
times the printed formula.
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
