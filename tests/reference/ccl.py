"""Counter-current learning (Kao & Hariharan 2024), the gradient written out.

A: activations of a batch (n, d), B: those of the feedback network for the c labels (c, d), Y: one-hot labels (n, c).

    product      256 g / d mean (A B^T - Y)^2,  dA = k (A B^T - Y) B,  dB = k (A B^T - Y)^T A,  k = 512 g / (d n c)
    normalised   g mean (A B^T - Y)^2 + 1/2 mean (A A^T - I)^2 + 1/2 mean (B B^T - I)^2, rows of A and B of length one
    paper        |A B_y^T - I| + the same two further terms, B_y: a row of B for each sample

Layer l of the forward network learns from dA_l, layer l+1 of the feedback network from dB_l, and the last forward layer
from the softmax error. The caller runs the layers, as in `local_losses`.
"""

from collections.abc import Callable

import numpy as np

from tests.reference.network import Array, one_hot, output_error


def unit_rows(x: Array) -> tuple[Array, Array]:
    """Rows of length one, and their lengths."""
    lengths = np.sqrt((x**2).sum(1, keepdims=True))
    return x / (lengths + 1e-8), lengths


def unit_rows_backward(x: Array, delta: Array) -> Array:
    """The gradient at x from that at x / (|x| + 1e-8)."""
    _, lengths = unit_rows(x)
    return delta / (lengths + 1e-8) - x * (x * delta).sum(1, keepdims=True) / (lengths * (lengths + 1e-8) ** 2)


def spread_gradient(x: Array) -> Array:
    """The gradient of 1/2 mean (x x^T - I)^2."""
    return 2 * (x @ x.T - np.eye(len(x))) @ x / len(x) ** 2


def pair_gradients(A: Array, B: Array, Y: Array, loss: str, weight: float) -> tuple[Array, Array]:
    """dS/dA and dS/dB of one pair, both flat."""
    n, c = Y.shape
    if loss == "product":
        k = 512 * weight / (A.shape[1] * n * c)
        M = A @ B.T - Y
        return k * M @ B, k * M.T @ A
    a, b = unit_rows(A)[0], unit_rows(B)[0]
    if loss == "normalised":
        M = a @ b.T - Y
        da, db = 2 * weight / (n * c) * M @ b, 2 * weight / (n * c) * M.T @ a
    else:
        rows = np.array([b[label.argmax()] for label in Y])
        M = a @ rows.T - np.eye(n)
        M = M / np.sqrt((M**2).sum())
        da, drows, db = M @ rows, M.T @ a, np.zeros_like(b)
        for label, row in zip(Y, drows, strict=True):
            db[label.argmax()] += row
    return unit_rows_backward(A, da + spread_gradient(a)), unit_rows_backward(B, db + spread_gradient(b))


def enlarged(b: Array, shape: tuple[int, ...] | None, size: tuple[int, ...] | None) -> Array:
    """b as maps of `shape`, each pixel of the new size taken from the nearest one."""
    if size is None:
        return b
    b = b.reshape(len(b), *shape)
    height, width = b.shape[2:]
    rows = [r * height // size[0] for r in range(size[0])]
    columns = [q * width // size[1] for q in range(size[1])]
    return np.array([[[[channel[r, q] for q in columns] for r in rows] for channel in sample] for sample in b])


def grads(
    blocks: list, stages: list, x: Array, y: Array, classes: int, loss: str, weight: float, forward: Callable,
    backward: Callable,
) -> dict[str, Array]:  # fmt: skip
    """Name to gradient.

    blocks: the layers of the forward network up to the input of the next layer, the head last. stages: for each forward
    layer (shape, size, layers) of the feedback layer that reverses it.
    """
    Y, gradients = one_hot(y, classes), {}
    signals, b = [], np.eye(classes)
    for shape, size, layers in reversed(stages):
        read = enlarged(b, shape, size)
        b, notes = forward(layers, read)
        signals.insert(0, (b, layers, notes))
    activations = [(x, [], [])]
    for block in blocks[:-1]:
        a, notes = forward(block, activations[-1][0])
        activations.append((a, block, notes))
    for (a, block, a_notes), (b, layers, b_notes) in zip(activations, signals, strict=True):
        dA, dB = pair_gradients(a.reshape(len(a), -1), b.reshape(len(b), -1), Y, loss, weight)
        gradients |= backward(layers, b_notes, dB.reshape(b.shape))[1]
        gradients |= backward(block, a_notes, dA.reshape(a.shape))[1]
    logits, notes = forward(blocks[-1], activations[-1][0])
    return gradients | backward(blocks[-1], notes, output_error(logits, y))[1]
