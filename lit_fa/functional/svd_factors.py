r"""Weights as three factors, $W = U\,\mathrm{diag}(s)\,V^\top$, as in an SVD.

Letters: n batch, o out, i in, k kernel, r rank. Every weight is written as a matrix (a, b). For a linear layer it is
the weight (o, i). For a convolution it has rows (o, column of the kernel) and columns (i, row of the kernel), that is,
shape (o kw, i kh); then V is a vertical convolution from i to r channels and U a horizontal one from r to o channels
(Yang et al. 2020, arXiv:2004.09031; SSA, arXiv:2510.25594). U is (a, r), s (r,), V (b, r).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input


class Factors(NamedTuple):
    """The three factors of a weight.

    Attributes:
        U: (a, r).
        s: (r,).
        V: (b, r).
    """

    U: Tensor
    s: Tensor
    V: Tensor


class Geometry(NamedTuple):
    """Geometry of a convolution with zero padding; each entry is a pair (rows, columns).

    Attributes:
        kernel: size, in pixels.
        stride: in pixels.
        padding: pixels of zeros on each side.
        dilation: distance of neighbouring entries of the kernel, in pixels.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def as_matrix(weight: Tensor) -> Tensor:
    """The matrix of a weight.

    Args:
        weight: (o, i) or (o, i, kh, kw).

    Returns:
        (o, i), the weight itself, or (o kw, i kh).
    """
    if weight.ndim == 2:
        return weight
    o, i, kh, kw = weight.shape
    return weight.permute(0, 3, 1, 2).reshape(o * kw, i * kh)


def as_weight(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """The weight of `shape`, (o, i) or (o, i, kh, kw), whose `as_matrix` is `matrix` (a, b)."""
    if len(shape) == 2:
        return matrix
    o, i, kh, kw = shape
    return matrix.reshape(o, kw, i, kh).permute(0, 2, 3, 1)


def full_rank(shape: Sequence[int]) -> int:
    """The smaller side of the matrix of a weight of `shape`.

    >>> full_rank((64, 32, 3, 3)), full_rank((10, 512))
    (96, 10)
    """
    o, i, *kernel = shape
    kh, kw = kernel or (1, 1)
    return min(o * kw, i * kh)


def parity_rank(shape: Sequence[int]) -> int:
    """The largest rank at which the factors have fewer entries than the weight of `shape`; 0 if there is none."""
    o, i, *kernel = shape
    kh, kw = kernel or (1, 1)
    return (o * i * kh * kw - 1) // (o * kw + i * kh + 1)


def factorise(weight: Tensor, rank: int | None = None) -> Factors:
    """The best approximation of a weight at a rank: its thin SVD, computed in float64.

    Args:
        weight: (o, i) or (o, i, kh, kw).
        rank: r; None: full.

    Returns:
        U (a, r), s (r,) in descending order and V (b, r), with the dtype of `weight`.

    >>> weight = torch.randn(4, 3, 3, 5, dtype=torch.float64)
    >>> torch.allclose(compose(factorise(weight), weight.shape), weight)
    True
    """
    u, s, vh = torch.linalg.svd(as_matrix(weight.detach()).double(), full_matrices=False)
    return Factors(*(t.to(weight.dtype).contiguous() for t in (u[:, :rank], s[:rank], vh[:rank].t())))


def compose(factors: Factors, shape: Sequence[int]) -> Tensor:
    """The dense weight.

    Args:
        factors: U (a, r), s (r,), V (b, r).
        shape: of the weight, (o, i) or (o, i, kh, kw).

    Returns:
        Of that shape.
    """
    return as_weight((factors.U * factors.s) @ factors.V.t(), shape)


def linear(x: Tensor, factors: Factors, bias: Tensor | None) -> Tensor:
    r"""(*, i) to (*, o): $((x V) \odot s) U^\top + b$. Computes neither the dense weight nor its gradient.

    Args:
        x: (*, i).
        factors: U (o, r), s (r,), V (i, r).
        bias: (o,) or None.
    """
    return F.linear((x @ factors.V) * factors.s, factors.U, bias)


def kernels(factors: Factors, kernel: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """V as a vertical kernel (r, i, kh, 1), U as a horizontal kernel (o, r, 1, kw).

    Args:
        factors: U (o kw, r), s (r,), V (i kh, r).
        kernel: (kh, kw).
    """
    (kh, kw), r = kernel, len(factors.s)
    vertical = factors.V.t().reshape(r, -1, kh, 1)
    horizontal = factors.U.reshape(-1, kw, r).permute(0, 2, 1).unsqueeze(2)
    return vertical, horizontal


def conv2d(x: Tensor, factors: Factors, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Vertical convolution by V, scale s of r channels, horizontal convolution by U: (n, o, h', w').

    Args:
        x: (n, i, h, w).
        factors: U (o kw, r), s (r,), V (i kh, r).
        bias: (o,) or None.
        geometry: of the dense convolution.
    """
    vertical, horizontal = kernels(factors, geometry.kernel)
    (sh, sw), (ph, pw), (dh, dw) = geometry.stride, geometry.padding, geometry.dilation
    t = F.conv2d(x, vertical, stride=(sh, 1), padding=(ph, 0), dilation=(dh, 1))
    return F.conv2d(t * factors.s.view(-1, 1, 1), horizontal, bias, (1, sw), (0, pw), (1, dw))


def linear_back(error: Tensor, factors: Factors) -> Tensor:
    """The error multiplied by the transposed factors: (*, i).

    Args:
        error: (*, o).
        factors: U (o, r), s (r,), V (i, r).
    """
    return ((error @ factors.U) * factors.s) @ factors.V.t()


def conv2d_back(error: Tensor, factors: Factors, geometry: Geometry, size: Sequence[int]) -> Tensor:
    """The error through the two transposed convolutions: (n, i, h, w).

    Args:
        error: (n, o, h', w').
        factors: U (o kw, r), s (r,), V (i kh, r).
        geometry: of the dense convolution.
        size: (h, w), of its input.
    """
    vertical, horizontal = kernels(factors, geometry.kernel)
    (sh, sw), (ph, pw), (dh, dw) = geometry.stride, geometry.padding, geometry.dilation
    n, r, rows = len(error), len(factors.s), error.shape[2]
    t = conv2d_input((n, r, rows, size[1]), horizontal, error, (1, sw), (0, pw), (1, dw))
    shape = (n, vertical.shape[1], *size)
    return conv2d_input(shape, vertical, t * factors.s.view(-1, 1, 1), (sh, 1), (ph, 0), (dh, 1))


def tangent(factor: Tensor, gradient: Tensor) -> Tensor:
    r"""$G - U\,\mathrm{sym}(U^\top G)$: the part of G that keeps U^T U = I to first order, of the shape of G.

    Args:
        factor: U, (..., a, r) with orthonormal columns.
        gradient: G, of the same shape.

    >>> U = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64)).Q
    >>> P = tangent(U, torch.randn(6, 2, dtype=torch.float64))
    >>> torch.allclose(U.t() @ P, -P.t() @ U)
    True
    """
    inner = factor.mT @ gradient
    return gradient - factor @ ((inner + inner.mT) / 2)


def newton_schulz(factor: Tensor) -> Tensor:
    r"""$U(\tfrac32 I - \tfrac12 U^\top U)$: one step towards orthonormal columns, of the shape of U.

    A zero column stays zero. The iteration diverges for $\lVert U\rVert_2^2 > 3$. Therefore, if a row of the Gram
    matrix has an absolute sum above 2, the factor is first divided by the root of this bound. A few steps then correct
    even a large optimiser step.

    Args:
        factor: U, (a, r), or (k, a, r) for k factors at once.
    """
    gram = factor.mT @ factor
    bound = gram.abs().sum(-1, keepdim=True).amax(-2, keepdim=True)
    scale = torch.where(bound > 2, bound, torch.ones_like(bound))
    product = torch.baddbmm if factor.ndim == 3 else torch.addmm
    return product(factor, factor, gram / scale, beta=1.5, alpha=-0.5) / scale.sqrt()


def qr_retraction(factor: Tensor) -> Tensor:
    """The orthonormal Q of U = QR with positive diagonal of R, computed in float64.

    Args:
        factor: U, (..., a, r).

    Returns:
        Q, of the same shape and dtype.
    """
    q, r = torch.linalg.qr(factor.double())
    return (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).to(factor.dtype)


def orthogonality(factor: Tensor) -> Tensor:
    r"""$\lVert U^\top U - I\rVert_F^2$ over the columns that are not zero (pruned columns are zero).

    Args:
        factor: U, (..., a, r).

    Returns:
        (...), a scalar for one factor.
    """
    gram = factor.mT @ factor
    return (gram - torch.diag_embed((gram.diagonal(dim1=-2, dim2=-1) > 0).to(gram.dtype))).square().sum((-2, -1))


def orthogonality_gradient(factor: Tensor) -> Tensor:
    r"""The gradient $4\,U(U^\top U - I)$ of `orthogonality`, of the shape of `factor` (..., a, r), U."""
    return 4 * (factor @ (factor.mT @ factor) - factor)


def hoyer(s: Tensor) -> Tensor:
    r"""$\lVert s\rVert_1 / \lVert s\rVert_2$, a scalar from 1 (one value) to $\sqrt r$ (all equal); 0 if all are zero.

    Args:
        s: (r,).
    """
    return s.abs().sum() / s.norm().clamp_min(torch.finfo(s.dtype).tiny)


def hoyer_gradient(s: Tensor) -> Tensor:
    r"""$\mathrm{sign}(s)/\lVert s\rVert_2 - s\,\lVert s\rVert_1/\lVert s\rVert_2^3$, (r,); zero if all s are zero.

    Args:
        s: (r,).
    """
    norm = s.norm()
    safe = torch.where(norm > 0, norm, torch.ones_like(norm))
    return (s.sign() - s * (s.abs().sum() / safe.square())) / safe


def energy_rank(s: Tensor, energy: Tensor | float) -> int:
    r"""The smallest number of singular values, largest first, whose squares sum to at least `energy`.

    Args:
        s: (r,), in any order.
        energy: a scalar, the sum of squares to keep; above that of all values, the result is r.

    >>> energy_rank(torch.tensor([1.0, 3.0, 0.1]), 0.95 * 10.01)
    2
    """
    sums = s.double().square().sort(descending=True).values.cumsum(0)
    return min(int((sums < float(energy) * (1 - 1e-12)).sum()) + 1, len(s))


def effective_update(factors: Factors, gradients: Factors, shape: Sequence[int]) -> Tensor:
    r"""$g_U S V^\top + U g_S V^\top + U S g_V^\top$: first-order change of the weight by a step on the factors.

    Args:
        factors: U (a, r), s (r,), V (b, r).
        gradients: the steps on them, of the same shapes.
        shape: of the weight, (o, i) or (o, i, kh, kw).

    Returns:
        Of that shape.
    """
    (u, s, v), (gu, gs, gv) = factors, gradients
    return as_weight((gu * s + u * gs) @ v.t() + (u * s) @ gv.t(), shape)
