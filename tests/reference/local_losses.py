"""Local losses with the gradient written out: PredSim (Nøkland & Eidnes 2019) and AugLocal (Ma et al. 2024).

Every block but the last learns from its own output h; nothing comes back from the blocks above. The last block learns
from the softmax error.

    PredSim    (1 - beta) cross-entropy of D(pool(h))   +   beta mean over pairs of (S_ij - T_ij)^2
               S: correlations of the samples' f(h), T: of the one-hot labels
    AugLocal   cross-entropy of the auxiliary network of h

With u_i the centred row of sample i over its length, S_ij = u_i . u_j and

    dL/du_i = sum_j (dL/dS_ij + dL/dS_ji) u_j        dL/dx_i = P (dL/du_i - u_i (u_i . dL/du_i)) / length

where P takes the mean away. A map is compared by the standard deviations of its channels (m - 1 in the denominator), a
map of three channels or fewer pixel by pixel. How blocks and auxiliary layers run is the caller's business:
`forward(layers, x)` gives output and notes, `backward(layers, notes, delta)` the error at the input and the gradients
by name.
"""

import math
from collections.abc import Callable

import numpy as np

from tests.reference.network import Array, one_hot, output_error

# --- similarity ------------------------------------------------------------------------------------------------------


def compared_by(x: Array) -> Array:
    """(n, f) of a map (n, c, h, w) or of vectors."""
    if x.ndim == 2:
        return x
    if x.shape[1] <= 3 or x.shape[2] == 1:
        return x.reshape(len(x), -1)
    return np.array([[channel.std(ddof=1) for channel in sample] for sample in x])


def compared_by_backward(x: Array, delta: Array) -> Array:
    if x.ndim == 2 or x.shape[1] <= 3 or x.shape[2] == 1:
        return delta.reshape(x.shape)
    back = np.zeros_like(x)
    for i, ch in np.ndindex(*delta.shape):
        channel = x[i, ch]
        deviation = channel.std(ddof=1)
        if deviation > 0:
            back[i, ch] = delta[i, ch] * (channel - channel.mean()) / (deviation * (channel.size - 1))
    return back


def directions(rows: Array) -> tuple[Array, Array]:
    """Centred rows of length one, and what the lengths were. A constant row is zero."""
    u, lengths = np.zeros_like(rows), np.zeros(len(rows))
    for i, row in enumerate(rows):
        centred = row - row.mean()
        lengths[i] = np.sqrt((centred**2).sum())
        if lengths[i] > 1e-12:
            u[i] = centred / lengths[i]
    return u, lengths


def similarity(x: Array) -> Array:
    """(n, n), pair by pair."""
    u, _ = directions(compared_by(x))
    return np.array([[a @ b for b in u] for a in u])


def matching(x: Array, target: Array) -> float:
    """Mean over all n^2 pairs."""
    return float(((similarity(x) - similarity(target)) ** 2).mean())


def matching_gradient(x: Array, target: Array) -> Array:
    """dL/dx, of the shape of x."""
    rows, n = compared_by(x), len(x)
    u, lengths = directions(rows)
    dS = 2 * (similarity(x) - similarity(target)) / n**2
    back = np.zeros_like(rows)
    for i in range(n):
        if lengths[i] > 1e-12:
            du = sum((dS[i, j] + dS[j, i]) * u[j] for j in range(n))
            across = (du - u[i] * (u[i] @ du)) / lengths[i]
            back[i] = across - across.mean()
    return compared_by_backward(x, back)


# --- the read-out's pool ---------------------------------------------------------------------------------------------


def pool_window(shape: tuple[int, int, int], limit: int) -> tuple[int, int]:
    """Height and width of a window. It doubles its height, then its width, until at most `limit` units are left."""
    channels, height, width = shape
    kh = kw = 1
    high = True
    while channels * math.ceil(height / kh) * math.ceil(width / kw) > limit and (kh, kw) != (height, width):
        if high:
            kh = min(2 * kh, height)
        else:
            kw = min(2 * kw, width)
        high = not high
    return kh, kw


def pool_windows(height: int, width: int, kh: int, kw: int) -> list[tuple[int, int, slice, slice]]:
    """(row and column of an output pixel, the rows and columns it averages); half a window hangs over the border of a
    side that it does not divide, and counts as zeros."""
    top = 0 if height % kh == 0 else kh // 2
    left = 0 if width % kw == 0 else kw // 2
    windows = []
    for p in range(math.ceil(height / kh)):
        for q in range(math.ceil(width / kw)):
            rows = slice(max(0, p * kh - top), p * kh - top + kh)
            windows.append((p, q, rows, slice(max(0, q * kw - left), q * kw - left + kw)))
    return windows


def pool(x: Array, limit: int) -> Array:
    """(n, c, h, w) to flat (n, units); vectors stay."""
    if x.ndim == 2:
        return x
    (n, channels, height, width), (kh, kw) = x.shape, pool_window(x.shape[1:], limit)
    pooled = np.zeros((n, channels, math.ceil(height / kh), math.ceil(width / kw)))
    for p, q, rows, columns in pool_windows(height, width, kh, kw):
        pooled[:, :, p, q] = x[:, :, rows, columns].sum((2, 3)) / (kh * kw)
    return pooled.reshape(n, -1)


def pool_backward(x: Array, delta: Array, limit: int) -> Array:
    if x.ndim == 2:
        return delta
    (n, channels, height, width), (kh, kw) = x.shape, pool_window(x.shape[1:], limit)
    back, delta = np.zeros_like(x), delta.reshape(n, channels, math.ceil(height / kh), math.ceil(width / kw))
    for p, q, rows, columns in pool_windows(height, width, kh, kw):
        back[:, :, rows, columns] += delta[:, :, p, q][:, :, None, None] / (kh * kw)
    return back


# --- a block's own gradients -----------------------------------------------------------------------------------------


def features(out: Array, shape: tuple[int, ...]) -> Array:
    """Tokens averaged; a flattened map as the map (c, h, w)."""
    return out.mean(1) if out.ndim == 3 else out.reshape(len(out), *shape)


def features_backward(out: Array, delta: Array) -> Array:
    if out.ndim == 3:
        return np.repeat(delta[:, None], out.shape[1], axis=1) / out.shape[1]
    return delta.reshape(out.shape)


def predsim_delta(
    h: Array,
    y: Array,
    classes: int,
    prediction: list | None,
    matched: list | None,
    beta: float,
    limit: int,
    forward: Callable,
    backward: Callable,
) -> tuple[Array, dict[str, Array]]:
    """dL/dh and the gradients of D and f; a part that is None is not there."""
    delta, gradients = np.zeros_like(h), {}
    if prediction is not None:
        logits, notes = forward(prediction, pool(h, limit))
        back, own = backward(prediction, notes, (1 - beta) * output_error(logits, y))
        delta, gradients = delta + pool_backward(h, back, limit), gradients | own
    if matched is not None:
        read, notes = forward(matched, h)
        back, own = backward(matched, notes, beta * matching_gradient(read, one_hot(y, classes)))
        delta, gradients = delta + back, gradients | own
    return delta, gradients


def auglocal_delta(
    h: Array, y: Array, auxiliary: list, forward: Callable, backward: Callable
) -> tuple[Array, dict[str, Array]]:
    logits, notes = forward(auxiliary, h)
    return backward(auxiliary, notes, output_error(logits, y))


def grads(
    blocks: list, x: Array, y: Array, shapes: list, deltas: list, forward: Callable, backward: Callable
) -> dict[str, Array]:
    """All gradients. shapes[l]: of block l's features; deltas[l](h, y): the error at them, and its own gradients."""
    gradients = {}
    for block, shape, delta in zip(blocks[:-1], shapes, deltas, strict=True):
        out, notes = forward(block, x)
        error, own = delta(features(out, shape), y)
        gradients |= own | backward(block, notes, features_backward(out, error))[1]
        x = out
    logits, notes = forward(blocks[-1], x)
    return gradients | backward(blocks[-1], notes, output_error(logits, y))[1]


def depths(blocks: int, depth: int, tau: float) -> list[int]:
    """d_l for l = 0 ... L - 2."""
    if blocks == 2:
        return [depth]
    return [max(1, round(depth * (1 - tau * k / (blocks - 2)) + tau * k / (blocks - 2))) for k in range(blocks - 1)]
