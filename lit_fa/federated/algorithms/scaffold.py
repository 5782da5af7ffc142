r"""SCAFFOLD: control variates correct the gradient of every client for its drift.

Karimireddy et al. 2020, arXiv:1910.06378, option II: $y \leftarrow y - \eta (g_i(y) - c_i + c)$; after K steps
$c_i^+ = c_i - c + (x - y) / (K \eta)$; $x \leftarrow x + \tfrac{\eta_g}{|S|} \sum_S (y_i - x)$,
$c \leftarrow c + \tfrac1N \sum_S (c_i^+ - c_i)$. $\eta_g$ is the rate of the server's SGD.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lit_fa.federated.algorithms.base import FederatedAlgorithm, equal_weights, refuse_unless_plain, zeros
from lit_fa.federated.local_optimizers import LocalOptimizer
from lit_fa.rules.base import Tensors


@dataclass(frozen=True)
class Scaffold(FederatedAlgorithm):
    """The state of a client is c_i; the mean over all clients is c. All clients have the same weight."""

    paper: ClassVar[str] = "Karimireddy et al. 2020, arXiv:1910.06378"
    stateful: ClassVar[bool] = True
    has_server_state: ClassVar[bool] = True

    def check(self, optimizer: LocalOptimizer) -> None:
        """(x - y) / (K eta) is a mean gradient only for plain SGD."""
        refuse_unless_plain("Scaffold", optimizer)

    def client_weights(self, sizes: Sequence[int], steps: Sequence[int], optimizer: LocalOptimizer) -> Tensor:
        """1 / |S|."""
        return equal_weights(len(sizes))

    def initial_state(self, anchor: Tensors) -> Tensors:
        """c_i = 0."""
        return zeros(anchor)

    def correct(self, grads: Tensors, params: Tensors, anchor: Tensors, state: Tensors, server: Tensors) -> None:
        """g - c_i + c."""
        for name, grad in grads.items():
            grad.add_(server[name] - state[name])

    def new_state(
        self, params: Tensors, anchor: Tensors, state: Tensors, server: Tensors, steps: int | Tensor, lr: float
    ) -> Tensors:
        """c_i - c + (x - y) / (K eta)."""
        return {n: c - server[n] + (anchor[n] - params[n]) / (_like(steps, c) * lr) for n, c in state.items()}


def _like(value: float | Tensor, tensor: Tensor) -> float | Tensor:
    """A number unchanged; numbers of clients (k,) in a shape that broadcasts with a tensor (k, ...)."""
    return value.to(tensor).view(-1, *[1] * (tensor.ndim - 1)) if isinstance(value, Tensor) else value
