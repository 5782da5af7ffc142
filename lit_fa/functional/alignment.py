r"""Angles between tensors, in degrees, over a whole tensor or for each sample.

Computed in float64 as $2\,\mathrm{atan2}(\|u-v\|, \|u+v\|)$ of the unit vectors (Kahan 2006). This is exact near 0
and 180 degrees, where the arc cosine loses half of the digits.
"""

import torch
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine between two tensors of equal size, flattened; nan if one of them is zero.

    Args:
        a: any shape.
        b: any shape with as many entries.

    Returns:
        A float64 scalar, -1 to 1.

    >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([[3.0], [4.0]])).item()
    0.6
    """
    return (_unit(a.reshape(1, -1)) * _unit(b.reshape(1, -1))).sum()


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle in degrees between two tensors of equal size, flattened; nan if one of them is zero.

    Args:
        a: any shape.
        b: any shape with as many entries.

    Returns:
        A float64 scalar, 0 to 180 degrees.

    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])).item()
    90.0
    """
    return _angles(a.reshape(1, -1), b.reshape(1, -1))[0]


def sample_angle(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the samples of the angle in degrees between a[k] and b[k].

    Args:
        a: (n, ...), for example the errors at a layer under a rule.
        b: (n, ...), those of backprop.

    Returns:
        A float64 scalar, 0 to 180 degrees. Samples with a[k] or b[k] equal to zero have no angle and are omitted; nan
        if there are no others.
    """
    return _angles(a.flatten(1), b.flatten(1)).nanmean()


def _angles(a: Tensor, b: Tensor) -> Tensor:
    u, v = _unit(a), _unit(b)
    return torch.rad2deg(2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1)))


def _unit(rows: Tensor) -> Tensor:
    rows = rows.detach().double()
    return rows / rows.norm(dim=1, keepdim=True)
