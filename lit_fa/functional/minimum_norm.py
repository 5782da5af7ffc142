r"""The minimum-norm solution of a least-squares problem, and how far a linear network is from it.

An over-parameterised linear map $P$ (c, i) fits targets $T$ (n, c) from inputs $X$ (n, i), n < i, in many ways. Let
$\Pi$ be the projection onto the rows of $X$. Of all solutions $W^\ast = (X^+ T)^\top$ has the smallest norm, and every
other one differs from it by a part $P(I - \Pi)$ that no training sample sees. In a network of two linear layers,
$P = W_2 W_1$, neither backprop nor feedback alignment changes $W_1(I - \Pi)$: the gradient of $W_1$ is a sum of
training inputs. So what remains of that part at the end is $W_2(T)\,W_1(0)\,(I - \Pi)$. (The first version of
2306.01870 claims that feedback alignment converges to the minimum-norm solution.)

Letters: n samples, i inputs, c outputs.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Distances(NamedTuple):
    """Frobenius norms, divided by the norm of the minimum-norm solution.

    Attributes:
        distance: of the map from the minimum-norm solution.
        outside: of the map's part outside the span of the inputs, $P(I - \\Pi)$.
        norm: of the map itself.
    """

    distance: float
    outside: float
    norm: float


def minimum_norm_solution(inputs: Tensor, targets: Tensor) -> Tensor:
    """(c, i) float64: of all least-squares solutions of inputs (n, i) to targets (n, c) the one of smallest norm."""
    return (torch.linalg.pinv(inputs.double()) @ targets.double()).t()


def from_minimum_norm(product: Tensor, inputs: Tensor, targets: Tensor) -> Distances:
    """How far the linear map `product` (c, i) is from the minimum-norm solution of inputs (n, i), targets (n, c).

    >>> x, y = torch.eye(2, 3), torch.tensor([[1.0], [0.0]])
    >>> from_minimum_norm(torch.tensor([[1.0, 0.0, 2.0]]), x, y).outside
    2.0
    """
    solution, product = minimum_norm_solution(inputs, targets), product.double()
    inside = product @ torch.linalg.pinv(inputs.double()) @ inputs.double()
    parts = (product - solution, product - inside, product)
    return Distances(*(torch.linalg.norm(part).div(torch.linalg.norm(solution)).item() for part in parts))
