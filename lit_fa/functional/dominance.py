r"""Alignment dominance: a lower bound on the decrease of the loss by a rule's steps, and the decay that it implies.

Robertson & Koyejo (ICML 2024, arXiv:2306.01870) bound the training loss of networks whose updates dominate. The text
of their definition could not be read; this is its most natural form. Let F be the update ($\dot\theta = -F$) and
$q = \langle\nabla L, F\rangle$. If $q \ge \alpha L^\beta$ throughout training, then under gradient flow

$L(t) \le L(0)\,e^{-\alpha t}$ for $\beta = 1$, $\quad
L(t) \le \left[L(0)^{1-\beta} + (\beta-1)\,\alpha t\right]^{-1/(\beta-1)}$ for $\beta > 1$.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class PowerLaw(NamedTuple):
    """q = coefficient * L^exponent, fitted.

    Attributes:
        exponent: beta of the module's formula.
        coefficient: alpha.
    """

    exponent: float
    coefficient: float


def fit_alpha(q: Tensor, loss: Tensor, beta: float) -> float:
    r"""The largest $\alpha$ for which $q \ge \alpha L^\beta$ holds at every point: $\min q / L^\beta$.

    Args:
        q: (t,) inner products of gradient and update; negative if a step increases the loss.
        loss: (t,) positive.
        beta: exponent.
    """
    return (q.double() / loss.double() ** beta).min().item()


def loss_bound(loss0: float, alpha: float, beta: float, t: Tensor) -> Tensor:
    r"""The upper bound on the loss after steps whose learning rates sum to t, float64, of the shape of `t`.

    For $\beta > 1$ and negative $\alpha$ the bound diverges at a finite t and is infinite after it.

    Args:
        loss0: L(0), positive.
        alpha: $\alpha$, see `fit_alpha`.
        beta: $\beta$, at least 1.
        t: any shape, sums of learning rates.
    """
    t = t.double()
    if beta == 1:
        return loss0 * torch.exp(-alpha * t)
    base = loss0 ** (1 - beta) + (beta - 1) * alpha * t
    return torch.where(base > 0, base.clamp_min(0) ** (-1 / (beta - 1)), torch.inf)


def fit_exponent(q: Tensor, loss: Tensor) -> PowerLaw:
    """Least squares of log q on log L over the points with positive q; nan with fewer than two different losses.

    Args:
        q: (t,), as in `fit_alpha`.
        loss: (t,).

    >>> loss = torch.tensor([1.0, 0.5, 0.25])
    >>> round(fit_exponent(3 * loss**2, loss).exponent, 6)
    2.0
    """
    positive = (q > 0) & (loss > 0)
    x, y = loss[positive].double().log(), q[positive].double().log()
    if x.unique().numel() < 2:
        return PowerLaw(float("nan"), float("nan"))
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return PowerLaw(slope.item(), (y.mean() - slope * x.mean()).exp().item())
