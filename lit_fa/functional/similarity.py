r"""The similarity matrix of the samples of a batch, which Nøkland & Eidnes (2019) match between layers.

$S(x)_{ij} = \frac{\tilde x_i \cdot \tilde x_j}{\|\tilde x_i\| \, \|\tilde x_j\|}$, $\quad \tilde x_i = x_i - \bar x_i$,

with the mean over the features of a sample: the correlation of every pair of samples. Letters: n batch, f features, c
channels, h height, w width. Sums are in float32 or wider.
"""

import torch
from torch import Tensor


def map_features(x: Tensor) -> Tensor:
    """The features of a map: the standard deviation of each channel over its positions (Nøkland & Eidnes' code).

    As in their code, maps of at most three channels or of height one are flattened instead.

    Args:
        x: (n, c, h, w).

    Returns:
        (n, c), with n - 1 in the denominator of the variance; or (n, c * h * w).
    """
    if x.shape[1] > 3 and x.shape[2] > 1:
        return x.flatten(2).std(dim=2)
    return x.flatten(1)


def similarity_matrix(x: Tensor) -> Tensor:
    """Correlation of every pair of samples.

    A sample whose features are all equal has no correlation: its row is zero and has no gradient. (The 1e-8 in the
    denominator of the authors' code gives it a gradient of 1e8.)

    Args:
        x: (n, f), or (n, c, h, w), which `map_features` converts.

    Returns:
        (n, n) between -1 and 1, with ones on the diagonal.

    >>> similarity_matrix(torch.tensor([[1.0, 2.0], [30.0, 50.0], [2.0, 1.0]])).round().tolist()
    [[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    x = map_features(x) if x.ndim == 4 else x
    centred = x - x.mean(1, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    # a constant row is zero only up to rounding
    rounding = 4 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True)
    varies = length > rounding
    rows = torch.where(varies, centred / torch.where(varies, length, 1), 0)
    with torch.autocast(x.device.type, enabled=False):  # eight bits are too few for similarities
        return rows @ rows.t()


def similarity_matching(a: Tensor, b: Tensor) -> Tensor:
    r"""$\frac{1}{n^2}\|S(a) - S(b)\|_F^2$: the mean over all pairs of the squared difference of their similarities.

    Args:
        a: (n, f) or (n, c, h, w).
        b: (n, f) or (n, c, h, w), with the same n.

    Returns:
        A scalar.
    """
    return (similarity_matrix(a) - similarity_matrix(b)).square().mean()
