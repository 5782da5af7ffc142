"""Error broadcast and decorrelation (Erdogan et al. 2025), one sample and one entry after the other.

    E    = softmax(u_L) - y, or u_L - y under the squared error              one sample: a vector of c entries
    R_k  <- lam R_k + (1 - lam) mean over samples of g(h_k) E^T              (units, c)
    Q_k  = R_k E
    G_k  = mean over samples of (Q_k * g'(h_k) * f'(u_k)) h_{k-1}^T

The network is a list of blocks as in `tests.contract.literal`; the last one is the output, which gets the exact error.
"""

import numpy as np

G = {"identity": (lambda h: h, np.ones_like), "square": (lambda h: h**2, lambda h: 2 * h)}


def renewed(R, activities, errors, lam):
    """The next estimate (units, c), from activities g(h) (n, units) and errors (n, c)."""
    result = np.zeros_like(R)
    for unit, output in np.ndindex(*R.shape):
        mean = sum(h[unit] * e[output] for h, e in zip(activities, errors, strict=True)) / len(errors)
        result[unit, output] = lam * R[unit, output] + (1 - lam) * mean
    return result


def grads(blocks, x, y, estimates, lam, sign, order, g, forward, backward):
    """Name to gradient of the weights, and the list of the next estimates, for the cross-entropy.

    estimates: R of each block but the last. sign: 1 or -1. order: whether R is renewed before it is broadcast.
    """
    function, derivative = G[g]
    notes, outputs, h = [], [], x
    for block in blocks:
        h, note = forward(block, h)
        notes.append(note)
        outputs.append(h)
    probabilities = np.exp(h - h.max(1, keepdims=True))
    errors = probabilities / probabilities.sum(1, keepdims=True) - np.eye(h.shape[1])[y]
    gradients = backward(blocks[-1], notes[-1], errors / len(y), {})[1]
    following = []
    for block, note, output, R in zip(blocks, notes, outputs, estimates, strict=False):
        activities = function(output).reshape(len(output), -1)
        following.append(renewed(R, activities, errors, lam))
        used = following[-1] if order == "estimate_first" else R
        Q = np.array([used @ e for e in errors]).reshape(output.shape)
        delta = sign * Q * derivative(output) / len(y)
        gradients |= backward(block, note, delta, {})[1]
    return gradients, following
