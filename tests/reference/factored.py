"""SVD-structured layers as a student would type them: a weight from U, s, V entry by entry, and its factors' gradients.

A conv kernel K (o, i, kh, kw) has the matrix M[(o, w), (i, h)] = K[o, i, h, w].
"""

import numpy as np


def dense(u, s, v, shape):
    """W = U diag(s) V^T, (o, i) or (o, i, kh, kw)."""
    matrix = sum(s[k] * np.outer(u[:, k], v[:, k]) for k in range(len(s)))
    return folded(matrix, shape)


def folded(matrix, shape):
    """The weight of `shape` whose matrix this is, entry by entry."""
    if len(shape) == 2:
        return matrix
    o, i, kh, kw = shape
    weight = np.zeros(shape)
    for a in range(o):
        for b in range(i):
            for h in range(kh):
                for w in range(kw):
                    weight[a, b, h, w] = matrix[a * kw + w, b * kh + h]
    return weight


def unfolded(weight):
    """The matrix of a weight."""
    if weight.ndim == 2:
        return weight
    o, i, kh, kw = weight.shape
    matrix = np.zeros((o * kw, i * kh))
    for a in range(o):
        for b in range(i):
            for h in range(kh):
                for w in range(kw):
                    matrix[a * kw + w, b * kh + h] = weight[a, b, h, w]
    return matrix


def factor_gradients(gradient, u, s, v):
    """G_U = G V diag(s), G_s = diag(U^T G V), G_V = G^T U diag(s), from the gradient of the dense weight."""
    g = unfolded(gradient)
    return g @ v @ np.diag(s), np.diag(u.T @ g @ v), g.T @ u @ np.diag(s)


def alignment_gradients(u, s, v, bu, bs, bv):
    """Of ||U - B_U||^2 + ||s - B_s||^2 + ||V - B_V||^2."""
    return 2 * (u - bu), 2 * (s - bs), 2 * (v - bv)


def orthogonality_gradient(u):
    """Of ||U^T U - I||^2, by finite differences of the formula itself."""

    def penalty(x):
        return np.sum((x.T @ x - np.eye(x.shape[1])) ** 2)

    gradient, step = np.zeros_like(u), 1e-6
    for place in np.ndindex(*u.shape):
        more, less = u.copy(), u.copy()
        more[place] += step
        less[place] -= step
        gradient[place] = (penalty(more) - penalty(less)) / (2 * step)
    return gradient


def on_tangent(u, g):
    """G - U (U^T G + G^T U) / 2."""
    return g - u @ (u.T @ g + g.T @ u) / 2


def energy_rank(s, share):
    """How many of the largest values hold `share` of the sum of squares."""
    squares = sorted((x * x for x in s), reverse=True)
    held = 0.0
    for count, square in enumerate(squares, start=1):
        held += square
        if held >= share * sum(squares):
            return count
    return len(s)
