"""Three readings of "adaptive feedback alignment": feedback that follows the weights.

Which of them a paper means has to be said there; none is claimed to be the definition.
"""

import numpy as np

from tests.reference.network import Array


def increment(B: Array, W_before: Array, W_after: Array) -> Array:
    """Kolen-Pollack without decay: B takes the step that W took."""
    return B + (W_after - W_before)


def norm(W: Array) -> Array:
    """B = sign(W) ||W|| / ||sign W||: the signs of W, all of one magnitude, with the Frobenius norm of W."""
    signs = np.sign(W)
    return signs * np.sqrt((W**2).sum()) / np.sqrt((signs**2).sum())


def mixture(B: Array, W: Array, rho: float) -> Array:
    """B <- (1 - rho) B + rho W."""
    return (1 - rho) * B + rho * W
