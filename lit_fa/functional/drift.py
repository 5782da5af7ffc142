r"""How far clients move apart in a round, and how far what they send back through a layer does.

With $\Delta_i = W_i - W^r$ a client's movement in one layer, $\delta_i$ the error behind the layer, and M the matrix
that the error goes back through (W under backprop, B under feedback alignment):

$D = \mathrm{mean}_{i<j} \|\Delta_i - \Delta_j\|_F$,
$\quad H = \mathrm{mean}_{i<j} \sum_k \|(M_i^{(k)} - M_j^{(k)})^\top \delta_i^{(k)}\|_F$.

The sum is over all local steps k of client i; where client j has taken fewer, its matrix is that of its last step. H
vanishes where all clients share B. Both are ours: the definition of FLFA's own H (2512.12762) could not be read.

Letters: m clients, d entries of a weight.
"""

import torch
from torch import Tensor


def mean_pairwise_cosine(total: Tensor, squares: float | Tensor, clients: int) -> Tensor:
    r"""$\mathrm{mean}_{i \ne j}\, u_i \cdot u_j = (\|\sum_i u_i\|^2 - \sum_i \|u_i\|^2) / (m (m - 1))$, in one pass.

    Args:
        total: (d) the sum of the vectors; of unit length, they have their cosines for products.
        squares: the sum of their squared lengths, m for unit vectors.
        clients: m, at least 2.

    >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    >>> round(mean_pairwise_cosine(a + b, 2.0, 2).item(), 6)
    0.6
    """
    return (total.square().sum() - squares) / (clients * (clients - 1))


def mean_pairwise_distance(moved: Tensor) -> Tensor:
    """D: the mean over pairs of ||a_i - a_j||, for the rows of (m, d), m >= 2."""
    return torch.pdist(moved.flatten(1)).mean()


def clipped_sum(gradients: Tensor, clip: float) -> Tensor:
    r"""$\sum_x g_x \min(1, C / \|g_x\|)$: the sum of the rows of (n, d), each at most C long.

    >>> clipped_sum(torch.tensor([[3.0, 4.0], [0.3, 0.4]]).double(), 1.0).round(decimals=6).tolist()
    [0.9, 1.2]
    """
    lengths = torch.linalg.vector_norm(gradients, dim=1)
    return (clip / lengths.clamp_min(clip)) @ gradients


def length_without_noise(noised: Tensor, deviation: float) -> Tensor:
    r"""The length that a vector (d) had before noise of this deviation was added: $\|v\|^2 - d\,\sigma^2$, rooted.

    At least one standard error of that square, $\sigma^2 \sqrt{2 d}$: below it there is only noise, and no direction.
    """
    square = noised.square().sum() - noised.numel() * deviation**2
    return square.clamp_min(deviation**2 * (2 * noised.numel()) ** 0.5).sqrt()
