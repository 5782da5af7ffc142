"""Feedback that is a copy of earlier weights, rescaled to the present ones (federated feedback alignment)."""

import numpy as np

from tests.reference.network import Array


def rows_rescaled(stored: Array, W: Array) -> Array:
    """Row o of the copy, scaled to the norm of row o of W; a row is all that enters one output (or output channel).

    A row of zeros has no direction and stays zero.
    """
    B = np.zeros(W.shape)
    for o in range(len(W)):
        length = np.sqrt((stored[o] ** 2).sum())
        if length > 0:
            B[o] = stored[o] / length * np.sqrt((W[o] ** 2).sum())
    return B


def matrix_rescaled(stored: Array, W: Array) -> Array:
    """The whole copy, scaled to the Frobenius norm of W."""
    return stored * np.sqrt((W**2).sum()) / np.sqrt((stored**2).sum())
