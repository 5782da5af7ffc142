r"""Client drift: how far the updates of clients diverge in a round, and how far their backward errors do.

Let $\Delta_i = W_i - W^r$ be a client's update of one layer, $\delta_i$ the error at the layer's output, and M the
matrix of the backward pass (W under backprop, B under feedback alignment):

$D = \mathrm{mean}_{i<j} \|\Delta_i - \Delta_j\|_F$,
$\quad H = \mathrm{mean}_{i<j} \sum_k \|(M_i^{(k)} - M_j^{(k)})^\top \delta_i^{(k)}\|_F$.

The sum is over all local steps k of client i; if client j has taken fewer, the matrix of its last step is used. H is
zero if all clients share B. Both are ours: the definition of FLFA's H (2512.12762) could not be read.

`drift_bounds` bounds D: if every entry of a layer's input lies in [-1, 1], every error at the outputs is that of a
softmax, and every error is carried back by the round's weights, then each local step moves the layer by at most
$\eta\,\sqrt{n_l}\,E_l$ with $E_L = \sqrt 2$ and $E_l = \|W^r_{l+1}\|_2 E_{l+1}$. Two clients with s and t steps are at
most $\eta (s + t) \sqrt{n_l}\,E_l$ apart. (FLFA's own bound has inputs and errors that are bounded; its constants
could not be read.)

Letters: m clients, d entries of a weight.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def mean_pairwise_cosine(total: Tensor, squares: float | Tensor, clients: int) -> Tensor:
    r"""$\mathrm{mean}_{i \ne j}\, u_i \cdot u_j = (\|\sum_i u_i\|^2 - \sum_i \|u_i\|^2) / (m (m - 1))$, a scalar.

    Args:
        total: (d,) sum of the vectors; if they have unit length, the result is their mean cosine.
        squares: sum of their squared norms, a scalar; m for unit vectors.
        clients: m, at least 2.

    >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    >>> round(mean_pairwise_cosine(a + b, 2.0, 2).item(), 6)
    0.6
    """
    return (total.square().sum() - squares) / (clients * (clients - 1))


def mean_pairwise_distance(updates: Tensor) -> Tensor:
    r"""D: the mean over pairs of $\|\Delta_i - \Delta_j\|$, a scalar.

    Args:
        updates: (m, ...), at least two clients; each row counts as one vector.
    """
    return torch.pdist(updates.flatten(1)).mean()


class DriftBound(NamedTuple):
    """What the bound assumes of one layer, and what follows.

    Attributes:
        inputs: largest norm of a sample's input, sqrt(n_l).
        errors: largest norm of a sample's error at the layer's output, E_l.
        step: their product, the longest step at rate 1.
    """

    inputs: float
    errors: float
    step: float


def drift_bounds(weights: Sequence[Tensor]) -> list[DriftBound]:
    """The bound of each layer, from the round's weights (o, i) of all layers, the first layer first.

    >>> [tuple(round(v, 3) for v in bound) for bound in drift_bounds([torch.eye(4), 2 * torch.eye(4)])]
    [(2.0, 2.828, 5.657), (2.0, 1.414, 2.828)]
    """
    errors, bounds = 2**0.5, []
    for weight in reversed(weights):
        inputs = weight.shape[1] ** 0.5
        bounds.append(DriftBound(inputs, errors, inputs * errors))
        errors *= torch.linalg.matrix_norm(weight.double(), ord=2).item()
    return bounds[::-1]


def clipped_sum(gradients: Tensor, clip: float) -> Tensor:
    r"""$\sum_x g_x \min(1, C / \|g_x\|)$: the sum (d,) of the rows, each clipped to norm C.

    Args:
        gradients: (n, d), one row for each sample.
        clip: C, positive.

    >>> clipped_sum(torch.tensor([[3.0, 4.0], [0.3, 0.4]]).double(), 1.0).round(decimals=6).tolist()
    [0.9, 1.2]
    """
    lengths = torch.linalg.vector_norm(gradients, dim=1)
    return (clip / lengths.clamp_min(clip)) @ gradients


def length_without_noise(noised: Tensor, deviation: float) -> Tensor:
    r"""Estimate of the norm of a vector before noise was added to it: $\sqrt{\|v\|^2 - d\,\sigma^2}$, a scalar.

    The square is at least its own standard error, $\sigma^2 \sqrt{2 d}$; a smaller value is only noise.

    Args:
        noised: (d,), v.
        deviation: $\sigma$, the standard deviation of the noise of each entry.
    """
    square = noised.square().sum() - noised.numel() * deviation**2
    return square.clamp_min(deviation**2 * (2 * noised.numel()) ** 0.5).sqrt()
