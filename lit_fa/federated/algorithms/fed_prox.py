r"""FedProx: a proximal term keeps the parameters of every client near those of the server.

Li et al. 2020, arXiv:1812.06127: a client minimises $F_i(w) + \tfrac\mu2 \|w - w_0\|^2$; the term
$\mu (w - w_0)$ is added to its gradient.
"""

from dataclasses import dataclass
from typing import ClassVar

from lit_fa.federated.algorithms.base import FederatedAlgorithm, positive, pull
from lit_fa.rules.base import Tensors


@dataclass(frozen=True)
class FedProx(FederatedAlgorithm):
    """mu: strength of the proximal term (the paper's grid: 0.001 to 1; FLFA's code: 0.1)."""

    paper: ClassVar[str] = "Li et al. 2020, arXiv:1812.06127"
    mu: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a negative strength."""
        positive("FedProx: mu", self.mu)

    def correct(self, grads: Tensors, params: Tensors, anchor: Tensors, state: Tensors, server: Tensors) -> None:
        """g + mu (w - w_0)."""
        pull(grads, params, anchor, self.mu)
