r"""Feedback-weight matching: direct feedback from weights, and weights from direct feedback.

Consider linear layers $W_2 \dots W_L$ with direct feedback matrices $F_1 \dots F_{L-1}$ from the logits to every hidden
layer, and $F_L = I$ at the logits. Weights and feedback match (FWM, ICLR 2026, equations 6 to 8) if

$W_l = F_l F_{l-1}^\top$ for $1 < l \le L$; for the head this is $W_L = F_{L-1}^\top$.

Only weights of rank at most c can fulfil this, so the solvers leave a residual. Letters: n batch, c classes. W_l is
(units of l, units of l - 1); F_l is (units of l, c), as in the paper, and the error at layer l is e F_l^T.

Every solver takes `weights`, W_2 to W_L, and returns the same number of F, F_1 to F_{L-1}, in float64. If an entry of
`weights` is None, that layer has no equation, and the layers before and after it are solved independently. If a part
does not end in the head, its topmost F is taken from `drawn`, and so is an F without any equation.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Weights = Sequence[Tensor | None]


def seq_ls(weights: Weights, drawn: Weights = ()) -> list[Tensor]:
    r"""The least-squares $F_{l-1}$ given $F_l$, from the head down: $W_l^\top F_l (F_l^\top F_l)^{-1}$.

    If the Gram matrix is singular to the precision of the weights (for example if the rows of the head sum to zero),
    the result is the solution of smallest norm. It is the limit of ridge regression, without a ridge parameter.

    Args:
        weights: W_2 to W_L, each (units of l, units of l - 1), the head (c, units of L - 1).
        drawn: F_1 to F_{L-1}, (units of l, c), used next to layers without equation.

    Returns:
        F_1 to F_{L-1}, (units of l, c), float64.

    Raises:
        ValueError: an F that is in no equation and not in `drawn`.

    >>> head = torch.randn(3, 6)
    >>> weights = [head.t() @ torch.randn(3, 5), head]  # a match exists, because the rank is the number of classes
    >>> relative_residual(weights, matched_weights(seq_ls(weights))) < 1e-5
    True
    """
    return _downward(weights, drawn, lambda weight, above: _fitted([weight.t()], [above], _precision(weights)))


def bp_product(weights: Weights, drawn: Weights = ()) -> list[Tensor]:
    r"""The product of backpropagation, $F_{l-1} = W_l^\top F_l$: in a network without activations the true gradient.

    Args:
        weights, drawn: as in `seq_ls`.

    Returns:
        As `seq_ls`.

    Raises:
        ValueError: as `seq_ls`.
    """
    return _downward(weights, drawn, lambda weight, above: weight.t() @ above)


def als(weights: Weights, drawn: Weights = (), sweeps: int = 50, *, head_fixed: bool = True) -> list[Tensor]:
    r"""Alternating least squares on $\sum_l \lVert W_l - F_l F_{l-1}^\top\rVert_F^2$, starting from `seq_ls`.

    In each sweep every F in turn, from the head down, is set to the solution of smallest norm given its two neighbours,
    including the topmost F of a part without head.

    Args:
        weights: W_2 to W_L, as in `seq_ls`.
        drawn: F_1 to F_{L-1}, as in `seq_ls`.
        sweeps: number of passes over all F.
        head_fixed: $F_{L-1} \equiv W_L^\top$, equation 6; otherwise the head's equation is one term of the sum.

    Returns:
        As `seq_ls`.
    """
    feedback, last, eps = seq_ls(weights, drawn), len(weights) - 1, _precision(weights)
    doubles = _doubles(weights)
    for _ in range(sweeps):
        for k in reversed(range(len(feedback))):
            if k == last and head_fixed and weights[last] is not None:
                continue
            own, lower = doubles[k], doubles[k - 1] if k else None
            around = [] if own is None else [(own.t(), _above(feedback, k, own))]
            around += [] if lower is None else [(lower, feedback[k - 1])]
            if around:
                matrices, neighbours = zip(*around, strict=True)
                feedback[k] = _fitted(matrices, neighbours, eps)
    return feedback


def svd_average(weights: Weights, drawn: Weights = (), *, normalise: bool = False) -> list[Tensor]:
    r"""Means of the estimates $F_l = U\sqrt\Sigma$ and $F_{l-1} = V\sqrt\Sigma$ from all $W_l \approx U\Sigma V^\top$.

    As in the code of Refinetti et al. 2021, with the c largest singular values. The head is not used; it is supposed to
    become $F_{L-1}^\top$. Their code does not fix the signs of the singular vectors, so two estimates may cancel. Here
    the signs of a layer follow the layer above; those of the uppermost layer make its largest entry positive.

    Args:
        weights: W_2 to W_L, as in `seq_ls`; of the head only the number of classes is used.
        drawn: F_1 to F_{L-1}, as in `seq_ls`.
        normalise: scale each column, the feedback of one class, to norm one; the last step of their code.

    Returns:
        As `seq_ls`.
    """
    classes = len(weights[-1]) if weights[-1] is not None else _drawn(drawn, len(drawn) - 1).shape[1]
    estimates: list[list[Tensor]] = [[] for _ in weights]
    for k, weight in reversed([*enumerate(_doubles(weights[:-1]))]):
        if weight is None:
            continue
        upper, lower = _split(weight, classes)
        signs = _signs(upper, estimates[k + 1])
        estimates[k + 1].append(upper * signs)
        estimates[k].append(lower * signs)
    feedback = [torch.stack(e).mean(0) if e else _drawn(drawn, k) for k, e in enumerate(estimates)]
    return [torch.nn.functional.normalize(F, dim=0) for F in feedback] if normalise else feedback


def matched_weights(feedback: Sequence[Tensor]) -> list[Tensor]:
    r"""Equations 7 and 8: $\bar W_l = F_l F_{l-1}^\top$ for every layer after the first, $\bar W_L = F_{L-1}^\top$.

    Args:
        feedback: F_1 to F_{L-1}, (units of l, c).

    Returns:
        W_2 to W_L, (units of l, units of l - 1).
    """
    return [above @ below.t() for below, above in pairwise(feedback)] + [feedback[-1].t()]


def blend(weight: Tensor, matched: Tensor, beta: float, *, keep_norm: bool = False) -> Tensor:
    r"""$(1-\beta) W + \beta \bar W$, of the shape and dtype of W.

    Args:
        weight: W, any shape.
        matched: $\bar W$, of the same shape.
        beta: $\beta$, 0 to 1.
        keep_norm: first scale $\bar W$ to the Frobenius norm of W.
    """
    original, matched = weight.detach().double(), matched.double()
    if keep_norm and matched.norm() > 0:
        matched = matched * (original.norm() / matched.norm())
    return ((1 - beta) * original + beta * matched).to(weight.dtype)


def factor_below(weight: Tensor, above: Tensor, product: Tensor) -> Tensor | None:
    r"""The W nearest to `weight` with A W = P: $W + A^+ (P - A W)$; None if the rank of A is too small.

    Args:
        weight: (units, in), of the lower of two layers.
        above: A, (c, units), the product of the layers above it.
        product: P, (c, in), the required product of all of them.

    >>> A, P = torch.randn(2, 5), torch.randn(2, 4)
    >>> torch.allclose(A @ factor_below(torch.randn(5, 4), A, P), P, atol=1e-5)
    True
    """
    W, A, P = (t.detach().double() for t in (weight, above, product))
    nearest = W + torch.linalg.pinv(A, rtol=torch.finfo(weight.dtype).eps * max(A.shape)) @ (P - A @ W)
    return nearest.to(weight.dtype) if torch.allclose(A @ nearest, P, rtol=1e-6, atol=1e-6 * P.norm()) else None


def relative_residual(weights: Weights, matched: Sequence[Tensor]) -> float:
    r"""$\lVert W - \bar W\rVert_F / \lVert W\rVert_F$ over the concatenation of all layers that have an equation.

    Args:
        weights: W_2 to W_L, of any shapes; None for a layer without equation.
        matched: $\bar W_2$ to $\bar W_L$, of the same shapes.
    """
    pairs = [(W.detach().double(), M.double()) for W, M in zip(weights, matched, strict=True) if W is not None]
    residual = sum((W - M).square().sum().item() for W, M in pairs)
    return (residual / max(sum(W.square().sum().item() for W, _ in pairs), torch.finfo(torch.float64).tiny)) ** 0.5


def product_rank(above: Tensor, below: Tensor, eps: float) -> int:
    r"""Rank of $F_l F_{l-1}^\top$ at relative precision `eps`, at most c, computed from matrices of at most (c, c).

    Args:
        above: (units of l, c), F_l.
        below: (units of l - 1, c), F_{l-1}.
        eps: share of the largest singular value, times the larger number of units, below which one counts as zero.

    >>> product_rank(torch.randn(9, 3), torch.ones(7, 3), 1e-7)
    1
    """
    (_, upper), (_, lower) = torch.linalg.qr(above.double()), torch.linalg.qr(below.double())
    values = torch.linalg.svdvals(upper @ lower.t())
    return int((values > eps * max(len(above), len(below)) * values[0]).sum())


def rescaled(feedback: Tensor, error: Tensor, rms: Tensor | float) -> Tensor:
    r"""F scaled such that the root mean square of e F^T, over samples and units, equals `rms`.

    The transformation $F_l \to cF_l$, $F_{l\pm1} \to F_{l\pm1}/c$ leaves every product unchanged, so the equations do
    not determine the scale of F. The scale changes no cosine of weights or errors. If e F^T is zero, F is unchanged.

    Args:
        feedback: (units, c).
        error: (n, c) at the logits.
        rms: a scalar, for example that of backpropagation's error at the same layer on the same batch.

    Returns:
        (units, c).
    """
    current = (error.double() @ feedback.double().t()).square().mean().sqrt()
    return feedback * (rms / current) if current > 0 else feedback


def _downward(weights: Weights, drawn: Weights, below: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    feedback: list[Tensor] = []
    for k, weight in reversed([*enumerate(_doubles(weights))]):
        above = feedback[0] if feedback else None
        if weight is None:
            feedback.insert(0, _drawn(drawn, k))
        else:
            feedback.insert(0, below(weight, _identity(weight) if above is None else above))
    return feedback


def _above(feedback: list[Tensor], k: int, weight: Tensor) -> Tensor:
    return feedback[k + 1] if k + 1 < len(feedback) else _identity(weight)


def _fitted(matrices: Sequence[Tensor], neighbours: Sequence[Tensor], eps: float) -> Tensor:
    """The F of smallest norm that minimises the sum of ||M - F N^T||² over pairs M, N of matrices and neighbours."""
    stacked = torch.cat([*neighbours])
    return torch.cat([*matrices], 1) @ torch.linalg.pinv(stacked, rtol=eps * max(stacked.shape)).t()


def _split(weight: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    root, missing = s[:classes].sqrt(), max(0, classes - len(s))  # fewer singular values than classes: zero columns
    upper, lower = (torch.nn.functional.pad(m[:, :classes] * root, (0, missing)) for m in (u, vh.t()))
    return upper, lower


def _signs(upper: Tensor, estimates: list[Tensor]) -> Tensor:
    largest = upper.gather(0, upper.abs().argmax(0, keepdim=True))[0]
    agreement = (upper * estimates[0]).sum(0) if estimates else largest
    return torch.where(agreement < 0, -1.0, 1.0).to(upper.dtype)


def _identity(weight: Tensor) -> Tensor:
    return torch.eye(len(weight), dtype=weight.dtype, device=weight.device)


def _drawn(drawn: Weights, k: int) -> Tensor:
    matrix = drawn[k] if k < len(drawn) else None
    if matrix is None:
        raise ValueError(f"F_{k + 1} is in no equation: it must be drawn")
    return matrix.detach().double()


def _doubles(weights: Weights) -> list[Tensor | None]:
    return [None if W is None else W.detach().double() for W in weights]


def _precision(weights: Weights) -> float:
    return max(torch.finfo(W.dtype).eps for W in weights if W is not None)
