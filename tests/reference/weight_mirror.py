"""Weight mirrors (Akrout et al. 2019): B learns W from the layer's response to noise.

    x noise (n, i), y = phi(x W^T + b) (n, o)        B <- B + eta_B (y - mean y)^T (x - mean x)

The expectation of the increment is n eta_B sigma^2 W for a linear layer and noise of variance sigma^2, times the mean
of phi' otherwise. B grows without bound, so a variant holds it: it is rescaled to its former norm, or it decays.
"""

import numpy as np

from tests.reference.network import Array


def response(W: Array, b: Array | None, x: Array, activation: str = "linear") -> Array:
    y = x @ W.T + (0 if b is None else b)
    return np.maximum(y, 0) if activation == "relu" else y


def increment(W: Array, b: Array | None, x: Array, activation: str = "linear", batch: str = "sum") -> Array:
    """(y - mean)^T (x - mean) in W's shape, summed over the noise, or its mean with `batch="mean"`."""
    y = response(W, b, x, activation)
    correlation = np.zeros(W.shape)
    for n in range(len(x)):
        correlation += np.outer(y[n] - y.mean(0), x[n] - x.mean(0))
    return correlation / (len(x) if batch == "mean" else 1)


def mirrored(
    B: Array, W: Array, b: Array | None, x: Array, lr: float, activation: str = "linear", batch: str = "sum"
) -> Array:
    """B + eta_B (y - mean)^T (x - mean)."""
    return B + lr * increment(W, b, x, activation, batch)


def mirrored_and_rescaled(
    B: Array, W: Array, b: Array | None, x: Array, lr: float, activation: str = "linear", batch: str = "sum"
) -> Array:
    """The same, then scaled so that the Frobenius norm of B is what it was before."""
    new = mirrored(B, W, b, x, lr, activation, batch)
    return new * np.sqrt((B**2).sum()) / np.sqrt((new**2).sum())


def mirrored_with_decay(
    B: Array,
    W: Array,
    b: Array | None,
    x: Array,
    lr: float,
    decay: float,
    activation: str = "linear",
    batch: str = "sum",
) -> Array:
    """(1 - decay) B + eta_B (y - mean)^T (x - mean): B settles at increment / decay."""
    return (1 - decay) * B + lr * increment(W, b, x, activation, batch)
