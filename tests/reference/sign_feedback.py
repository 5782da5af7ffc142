"""Sign symmetry (Liao, Leibo & Poggio 2016): feedback that has the signs of the weights, and another magnitude."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tests.reference import feedback_alignment
from tests.reference.network import WEIGHTED, Array, Layer


def usf(W: Array, c: float) -> Array:
    """Uniform: B = c sign(W), recomputed from the present W; sign(0) = 0."""
    return c * np.sign(W)


def brsf(W: Array, M: Array) -> Array:
    """Batchwise random: B = |M| sign(W), M drawn anew for every batch."""
    return np.abs(M) * np.sign(W)


def frsf(W: Array, M0: Array) -> Array:
    """Fixed random: B = |M0| sign(W), M0 drawn once; the signs follow the present W."""
    return np.abs(M0) * np.sign(W)


def fans(W: Array) -> tuple[int, int]:
    """(fan in, fan out): inputs and outputs of a unit, times the kernel's area for convolutions."""
    area = math.prod(W.shape[2:])
    return W.shape[1] * area, W.shape[0] * area


def xavier_scale(W: Array) -> float:
    """c = standard deviation of the Xavier draw, sqrt(2 / (fan in + fan out))."""
    return math.sqrt(2 / sum(fans(W)))


def default_scale(W: Array) -> float:
    """c = standard deviation of torch's default draw, uniform within +-1/sqrt(fan in): 1 / sqrt(3 fan in)."""
    return 1 / math.sqrt(3 * fans(W)[0])


def usf_grads(
    layers: Sequence[Layer], x: Array, y: Array, scales: Mapping[int, float], loss: str = "cross_entropy"
) -> dict[str, Array]:
    """Feedback alignment with B_i = c_i sign(W_i) for every weight layer; `scales` maps its index to c_i."""
    feedback = {i: usf(layer[1], scales[i]) for i, layer in enumerate(layers) if layer[0] in WEIGHTED}
    return feedback_alignment.grads(layers, x, y, feedback, loss)


def random_magnitude_grads(
    layers: Sequence[Layer], x: Array, y: Array, magnitudes: Mapping[int, Array], loss: str = "cross_entropy"
) -> dict[str, Array]:
    """brsf with this batch's M_i, or frsf with the fixed ones: the two differ only in when M is drawn."""
    feedback = {i: brsf(layer[1], magnitudes[i]) for i, layer in enumerate(layers) if layer[0] in WEIGHTED}
    return feedback_alignment.grads(layers, x, y, feedback, loss)
