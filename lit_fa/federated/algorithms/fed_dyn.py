r"""FedDyn: a dynamic regulariser for every client, so that the optima of clients and server agree.

Acar et al. 2021, arXiv:2111.04263: a client minimises $F_i(w) - \langle g_i, w \rangle + \tfrac\alpha2 \|w - w_0\|^2$
and then $g_i \leftarrow g_i - \alpha (w_i - w_0)$; the server has
$h \leftarrow h - \tfrac\alpha N \sum_S (w_i - w_0)$, which is the mean of all $g_i$, and
$w \leftarrow \tfrac1{|S|} \sum_S w_i - h / \alpha$.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lit_fa.federated.algorithms.base import FederatedAlgorithm, equal_weights, positive, pull, zeros
from lit_fa.federated.local_optimizers import LocalOptimizer
from lit_fa.rules.base import Tensors


@dataclass(frozen=True)
class FedDyn(FederatedAlgorithm):
    """alpha: strength of the regulariser (the paper: 0.01 to 0.1). The client keeps g_i; their mean over all is h."""

    paper: ClassVar[str] = "Acar et al. 2021, arXiv:2111.04263"
    stateful: ClassVar[bool] = True
    has_server_state: ClassVar[bool] = True
    alpha: float = 0.1

    def __post_init__(self) -> None:
        """The server divides by alpha."""
        positive("FedDyn: alpha", self.alpha, zero=False)

    def client_weights(self, sizes: Sequence[int], steps: Sequence[int], optimizer: LocalOptimizer) -> Tensor:
        """1 / |S|."""
        return equal_weights(len(sizes))

    def initial_state(self, anchor: Tensors) -> Tensors:
        """g_i = 0."""
        return zeros(anchor)

    def correct(self, grads: Tensors, params: Tensors, anchor: Tensors, state: Tensors, server: Tensors) -> None:
        """g - g_i + alpha (w - w_0)."""
        for name, grad in grads.items():
            grad.sub_(state[name])
        pull(grads, params, anchor, self.alpha)

    def new_state(
        self, params: Tensors, anchor: Tensors, state: Tensors, server: Tensors, steps: int | Tensor, lr: float
    ) -> Tensors:
        """g_i - alpha (w_i - w_0)."""
        return {name: g - self.alpha * (params[name] - anchor[name]) for name, g in state.items()}

    def server_gradient(self, update: Tensors, server: Tensors) -> Tensors:
        """w_0 - (mean of w_i - h / alpha)."""
        return {name: u + server[name] / self.alpha for name, u in update.items()}
