"""Mono-Forward (Gong, Li & Abdulla 2025), the gradient written out.

Block i has the output a_i and a matrix M_i of its own, p_i = softmax(M_i a_i):

    dM_i    = (p_i - y)^T a_i / n
    error   = (p_i - y) M_i / n      at a_i, and nothing from the blocks above

The last block ends with the head and learns from the softmax error. With `joint`, the error of the block above is added
(backpropagation with deep supervision). How blocks run is the caller's business, as in `local_losses`.
"""

from collections.abc import Callable

from tests.reference.local_losses import features, features_backward
from tests.reference.network import Array, output_error


def grads(
    blocks: list,
    x: Array,
    y: Array,
    shapes: list,
    matrices: dict[str, Array],
    joint: bool,
    forward: Callable,
    backward: Callable,
) -> dict[str, Array]:
    """Name to gradient. shapes[i]: of block i's features; matrices: name to M_i (c, units), block by block."""
    outputs, notes = [], []
    for block in blocks:
        x, note = forward(block, x)
        outputs.append(x)
        notes.append(note)
    above, gradients = backward(blocks[-1], notes[-1], output_error(outputs[-1], y))
    for i in reversed(range(len(blocks) - 1)):
        name, M = list(matrices.items())[i]
        a = features(outputs[i], shapes[i])
        flat = a.reshape(len(a), -1)
        error = output_error(flat @ M.T, y)
        gradients[name] = error.T @ flat
        delta = features_backward(outputs[i], (error @ M).reshape(a.shape))
        above, own = backward(blocks[i], notes[i], delta + above if joint else delta)
        gradients |= own
    return gradients
