r"""Feedback-weight matching: direct feedback made from weights, and weights made from direct feedback.

For a chain of linear layers $W_2 \dots W_L$ with feedback $F_1 \dots F_{L-1}$ from the logits to every hidden layer,
and $F_L = I$ at the logits themselves, the two sides match (FWM, ICLR 2026, equations 6 to 8) where

$W_l = F_l F_{l-1}^\top$ for $1 < l \le L$; the read-out's equation is $W_L = F_{L-1}^\top$.

Only a chain of rank at most c can fulfil it, so solvers leave a residual. Letters: n batch, c classes. W_l is (units of
l, units of l - 1); F_l is (units of l, c), as in the paper, and the delta of layer l is e F_l^T.

Every solver takes `weights`, W_2 to W_L, and returns as many F, F_1 to F_{L-1}, in float64. An entry None is a layer
without equation: there the chain falls into pieces that know nothing of each other. A piece that does not end in the
read-out starts from its topmost F as `drawn`; so does an F that stands in no equation at all.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

Chain = Sequence[Tensor | None]


def seq_ls(weights: Chain, drawn: Chain = ()) -> list[Tensor]:
    r"""From the read-out down, the least-squares $F_{l-1}$ given $F_l$: $W_l^\top F_l (F_l^\top F_l)^{-1}$.

    Where the Gram matrix is singular to the working precision of the weights (logits whose rows sum to zero, say) it is
    the solution of smallest norm, which a ridge has for its limit and which does not hang on the ridge's size.

    >>> head = torch.randn(3, 6)
    >>> chain = [head.t() @ torch.randn(3, 5), head]  # has a match, for its ranks are those of the classes
    >>> relative_residual(chain, matched_weights(seq_ls(chain))) < 1e-5
    True
    """
    return _downward(weights, drawn, lambda weight, above: _fitted([weight.t()], [above], _precision(weights)))


def bp_product(weights: Chain, drawn: Chain = ()) -> list[Tensor]:
    r"""The path of backpropagation, $F_{l-1} = W_l^\top F_l$: in a network without activations its very gradient."""
    return _downward(weights, drawn, lambda weight, above: weight.t() @ above)


def als(weights: Chain, drawn: Chain = (), sweeps: int = 50, *, head_fixed: bool = True) -> list[Tensor]:
    r"""Alternating least squares on $\sum_l \lVert W_l - F_l F_{l-1}^\top\rVert_F^2$, from `seq_ls` on.

    Every F in turn, from the read-out down, is the solution of smallest norm given its two neighbours. The topmost F of
    a piece without read-out moves as well.

    Args:
        weights: W_2 to W_L.
        drawn: F_1 to F_{L-1} for where the chain breaks.
        sweeps: over all F.
        head_fixed: $F_{L-1} \equiv W_L^\top$, equation 6; else the read-out's equation is one term among the others.
    """
    found, last, eps = seq_ls(weights, drawn), len(weights) - 1, _precision(weights)
    doubles = _doubles(weights)
    for _ in range(sweeps):
        for k in reversed(range(len(found))):
            if k == last and head_fixed and weights[last] is not None:
                continue
            around = [(doubles[k].t(), _above(found, k, doubles[k]))] if doubles[k] is not None else []
            around += [(doubles[k - 1], found[k - 1])] if k and doubles[k - 1] is not None else []
            if around:
                matrices, neighbours = zip(*around, strict=True)
                found[k] = _fitted(matrices, neighbours, eps)
    return found


def svd_average(weights: Chain, drawn: Chain = (), *, normalise: bool = False) -> list[Tensor]:
    r"""Each hidden $W_l \approx U\Sigma V^\top$ says $F_l = U\sqrt\Sigma$ and $F_{l-1} = V\sqrt\Sigma$; their means.

    As in the code of Refinetti et al. 2021: the c largest singular values; the read-out has no say and is to become
    $F_{L-1}^\top$. Their code takes the signs of singular vectors as they come, so that two estimates may cancel; here
    those of a layer follow the layer above, and of the uppermost make its largest entry positive.

    Args:
        weights: W_2 to W_L; of the read-out only the number of classes counts.
        drawn: F_1 to F_{L-1} for where the chain breaks.
        normalise: each column, what one class sends to a layer, has norm one; their last step.
    """
    classes = len(weights[-1]) if weights[-1] is not None else drawn[-1].shape[1]
    estimates: list[list[Tensor]] = [[] for _ in weights]
    for k in reversed(range(len(weights) - 1)):
        if weights[k] is None:
            continue
        upper, lower = _split(weights[k].detach().double(), classes)
        signs = _signs(upper, estimates[k + 1])
        estimates[k + 1].append(upper * signs)
        estimates[k].append(lower * signs)
    found = [torch.stack(e).mean(0) if e else _drawn(drawn, k) for k, e in enumerate(estimates)]
    return [torch.nn.functional.normalize(F, dim=0) for F in found] if normalise else found


def matched_weights(feedback: Sequence[Tensor]) -> list[Tensor]:
    r"""Equations 7 and 8: $\bar W_l = F_l F_{l-1}^\top$ for every layer behind the first, $\bar W_L = F_{L-1}^\top$."""
    return [above @ below.t() for below, above in pairwise(feedback)] + [feedback[-1].t()]


def blend(weight: Tensor, matched: Tensor, beta: float, *, keep_norm: bool = False) -> Tensor:
    r"""$(1-\beta) W + \beta \bar W$ in the type of W; `keep_norm` first gives $\bar W$ the Frobenius norm of W."""
    original, matched = weight.detach().double(), matched.double()
    if keep_norm and matched.norm() > 0:
        matched = matched * (original.norm() / matched.norm())
    return ((1 - beta) * original + beta * matched).to(weight.dtype)


def factor_below(weight: Tensor, above: Tensor, product: Tensor) -> Tensor | None:
    r"""The W nearest to `weight` with A W = P: $W + A^+ (P - A W)$; None where A has too few ranks for it.

    Args:
        weight: (units, in), of the lower of two layers.
        above: A, (c, units), what the layers above it multiply by.
        product: P, (c, in), wanted of all of them.

    >>> A, P = torch.randn(2, 5), torch.randn(2, 4)
    >>> torch.allclose(A @ factor_below(torch.randn(5, 4), A, P), P, atol=1e-5)
    True
    """
    W, A, P = (t.detach().double() for t in (weight, above, product))
    found = W + torch.linalg.pinv(A, rtol=torch.finfo(weight.dtype).eps * max(A.shape)) @ (P - A @ W)
    return found.to(weight.dtype) if torch.allclose(A @ found, P, rtol=1e-6, atol=1e-6 * P.norm()) else None


def relative_residual(weights: Chain, matched: Sequence[Tensor]) -> float:
    r"""$\lVert W - \bar W\rVert_F / \lVert W\rVert_F$ of all layers that have an equation, as if concatenated."""
    pairs = [(W.detach().double(), M.double()) for W, M in zip(weights, matched, strict=True) if W is not None]
    apart = sum((W - M).square().sum().item() for W, M in pairs)
    return (apart / max(sum(W.square().sum().item() for W, _ in pairs), torch.finfo(torch.float64).tiny)) ** 0.5


def product_rank(above: Tensor, below: Tensor, eps: float) -> int:
    r"""Rank of $F_l F_{l-1}^\top$ at relative precision `eps`, at most c, from matrices no larger than (c, c).

    >>> product_rank(torch.randn(9, 3), torch.ones(7, 3), 1e-7)
    1
    """
    (_, upper), (_, lower) = torch.linalg.qr(above.double()), torch.linalg.qr(below.double())
    values = torch.linalg.svdvals(upper @ lower.t())
    return int((values > eps * max(len(above), len(below)) * values[0]).sum())


def rescaled(feedback: Tensor, error: Tensor, rms: Tensor | float) -> Tensor:
    r"""F times the number that makes the root mean square of e F^T, over samples and units, equal to `rms`.

    The gauge: $F_l \to cF_l$, $F_{l\pm1} \to F_{l\pm1}/c$ leaves every product, so solvers leave the size of F open.
    A factor changes no cosine, neither of weights nor of deltas. An F that sends nothing stays as it is.

    Args:
        feedback: (units, c).
        error: (n, c) at the logits.
        rms: wanted, for instance of backpropagation's delta at the same place and on the same batch.
    """
    sent = (error.double() @ feedback.double().t()).square().mean().sqrt()
    return feedback * (rms / sent) if sent > 0 else feedback


def _downward(weights: Chain, drawn: Chain, below) -> list[Tensor]:
    found: list[Tensor] = []
    for k, weight in reversed([*enumerate(_doubles(weights))]):
        above = found[0] if found else None
        if weight is None:
            found.insert(0, _drawn(drawn, k))
        else:
            found.insert(0, below(weight, _identity(weight) if above is None else above))
    return found


def _above(found: list[Tensor], k: int, weight: Tensor) -> Tensor:
    return found[k + 1] if k + 1 < len(found) else _identity(weight)


def _fitted(matrices: Sequence[Tensor], neighbours: Sequence[Tensor], eps: float) -> Tensor:
    """The F of smallest norm with the least sum of ||M - F N^T||² over pairs M, N of matrices and neighbours."""
    stacked = torch.cat([*neighbours])
    return torch.cat([*matrices], 1) @ torch.linalg.pinv(stacked, rtol=eps * max(stacked.shape)).t()


def _split(weight: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    root, missing = s[:classes].sqrt(), max(0, classes - len(s))  # fewer singular values than classes: columns of zero
    return tuple(torch.nn.functional.pad(m[:, :classes] * root, (0, missing)) for m in (u, vh.t()))


def _signs(upper: Tensor, estimates: list[Tensor]) -> Tensor:
    largest = upper.gather(0, upper.abs().argmax(0, keepdim=True))[0]
    towards = (upper * estimates[0]).sum(0) if estimates else largest
    return torch.where(towards < 0, -1.0, 1.0).to(upper.dtype)


def _identity(weight: Tensor) -> Tensor:
    return torch.eye(len(weight), dtype=weight.dtype, device=weight.device)


def _drawn(drawn: Chain, k: int) -> Tensor:
    if k >= len(drawn):
        raise ValueError(f"F_{k + 1} stands above no equation: it must be drawn")
    return drawn[k].detach().double()


def _doubles(weights: Chain) -> list[Tensor | None]:
    return [None if W is None else W.detach().double() for W in weights]


def _precision(weights: Chain) -> float:
    return max(torch.finfo(W.dtype).eps for W in weights if W is not None)
