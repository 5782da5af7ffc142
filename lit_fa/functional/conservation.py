r"""The conserved potential of every neuron under feedback alignment, and its exact change by SGD with finite steps.

Robertson & Koyejo (ICML 2024, arXiv:2306.01870), Theorem 5.2: under gradient flow with fixed feedback B and a
positively 1-homogeneous activation ($\phi'(z)z = \phi(z)$: ReLU, leaky ReLU, linear, also through pooling) each hidden
neuron j of each layer i conserves

$C_{i,j} = \langle W_{i+1}[:,j],\, B_{i+1}[:,j]\rangle - \tfrac12\|W_i[j,:]\|^2 - \tfrac12 b_{i,j}^2$.

Plain SGD with steps $\eta_t$ obeys an exact identity, whose limit is the law:

$C_{i,j}(T) = C_{i,j}(0) - \tfrac12\sum_t \eta_t^2\,\|g_{i,j}(t)\|^2$.

Both hold for any loss, data, label noise and depth. Related laws with the same proof (`drift` computes their steps):

| law | conserved, together with $-\tfrac12\|W_i[j,:]\|^2$ | step of the identity, divided by $\tfrac12\eta^2$ |
|---------------|---|---|
| feedback | $\langle W_{i+1}[:,j], B[:,j]\rangle$ | $-\|g_i[j]\|^2$ |
| balance | $\tfrac12\|W_{i+1}[:,j]\|^2$ (backprop, Du et al. 2018) | $\|g_{i+1}[:,j]\|^2-\|g_i[j]\|^2$ |
| kolen_pollack | $\tfrac12\|B[:,j]\|^2$ if dB = dW | $\|g_B[:,j]\|^2-\|g_i[j]\|^2$ |
| path | $\sum_t\langle B_t[:,j], \Delta W_{i+1}[:,j]\rangle$ | $-\|g_i[j]\|^2$, for any $B_t$ |
| sign | $c\|W_{i+1}[:,j]\|_1$ if B = c sign(W) | none: sign changes add to it (see path) |

After a normalisation with scale and shift, the pair $(\gamma_j, \beta_j)$ replaces $(W_i[j,:], b_j)$, and
$\|W_i[j,:]\|$ is conserved separately.

The paper uses row vectors. Here a weight has torch's shape (o, i, *k): neuron j has row j of its layer and column j of
the next layer or, if maps of h x w are flattened, columns j h w to (j+1) h w - 1. Letters: o out, i in, k kernel, u
units.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Law = Literal["feedback", "balance", "sign", "kolen_pollack", "path"]
LAWS: tuple[Law, ...] = get_args(Law)


def incoming(weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""$\tfrac12\|W[j,:]\|^2$, plus $\tfrac12 b_j^2$ with a bias: the incoming part of neuron j, (u,) float64.

    Args:
        weight: (u, i, *k), or the scale (u,) of a normalisation.
        bias: (u,) or None.
    """
    rows = row_squares(weight)
    return (rows if bias is None else rows + row_squares(bias)) / 2


def outgoing(weight: Tensor, matrix: Tensor, units: int) -> Tensor:
    r"""$\langle W_{i+1}[:,j], B_{i+1}[:,j]\rangle$ of each neuron, (u,) float64.

    With `matrix` = c sign(W) this is $c\|W[:,j]\|_1$, with W itself $\|W[:,j]\|^2$.

    Args:
        weight: (o, i, *k) of the next layer, i a multiple of `units`.
        matrix: the same shape, the feedback.
        units: number of neurons (channels) before it; each has i / units neighbouring columns.
    """
    return column_sums(weight.detach().double() * matrix.detach().double(), units)


def potential(outgoing_energy: Tensor, incoming_energy: Tensor) -> Tensor:
    """C_j: the outgoing part of each neuron minus its incoming part, (u,).

    Args:
        outgoing_energy: (u,), of `outgoing`.
        incoming_energy: (u,), of `incoming`.
    """
    return outgoing_energy - incoming_energy


def row_squares(tensor: Tensor, *, dtype: torch.dtype | None = torch.float64) -> Tensor:
    """Sum of squares of every row, (u,) float64.

    Args:
        tensor: (u, ...).
        dtype: of the summation; None is the tensor's own type: several times faster, with its rounding error.
    """
    rows = tensor.detach().reshape(tensor.shape[0], -1)
    return torch.linalg.vector_norm(rows, dim=1, dtype=dtype).double().square()


def column_sums(product: Tensor, units: int) -> Tensor:
    """The sum over the columns of each neuron, over all rows and the kernel, (u,) float64.

    Args:
        product: (o, i, *k), i a multiple of `units`.
        units: u, number of neurons; each has i / u neighbouring columns.
    """
    return product.transpose(0, 1).reshape(units, -1).sum(1, dtype=torch.float64)


def drift(law: str, lr: float, incoming_squares: Tensor, outgoing_squares: Tensor | None = None) -> Tensor:
    r"""The exact change of $C_j$ by one step of plain SGD, (u,) float64.

    Args:
        law: one of `LAWS`. For `sign` this is the step of the path law's potential; the step of $c\|W\|_1$ differs
            from it by the weights that change sign.
        lr: $\eta$.
        incoming_squares: (u,) $\|g_i[j,:]\|^2$, including the bias.
        outgoing_squares: (u,) $\|g_{i+1}[:,j]\|^2$ for balance, $\|g_B[:,j]\|^2$ for kolen_pollack.

    Raises:
        ValueError: an unknown law, or one that needs `outgoing_squares` without them.
    """
    if law not in LAWS:
        raise ValueError(f"unknown conservation law '{law}': choose one of {', '.join(LAWS)}")
    if law not in ("balance", "kolen_pollack"):
        return -0.5 * lr**2 * incoming_squares
    if outgoing_squares is None:
        raise ValueError(f"the law '{law}' needs outgoing_squares")
    return 0.5 * lr**2 * (outgoing_squares - incoming_squares)


def path_step(lr: float, matrix: Tensor, gradient: Tensor, units: int) -> Tensor:
    r"""$-\eta\,\langle B_t[:,j], g_{i+1}[:,j]\rangle$: a left Riemann term of $\int\langle B, dW\rangle$, (u,).

    Args:
        lr: $\eta$.
        matrix: (o, i, *k), the feedback with which the gradient of this step was computed.
        gradient: (o, i, *k) of the next layer's weight.
        units: number of neurons before it.
    """
    return -lr * outgoing(gradient, matrix, units)


def matrix_law(incoming_weight: Tensor, outgoing_weight: Tensor, matrix: Tensor) -> Tensor:
    r"""$W_2^\top B + B^\top W_2 - W_1 W_1^\top$, (u, u) float64: conserved in linear networks.

    Its diagonal is twice the potential. With ReLU only the diagonal is conserved.

    Args:
        incoming_weight: (u, i).
        outgoing_weight: (o, u).
        matrix: (o, u).
    """
    first, second, feedback = (t.detach().double() for t in (incoming_weight, outgoing_weight, matrix))
    aligned = second.t() @ feedback
    return aligned + aligned.t() - first @ first.t()
