"""Direct feedback alignment (Nøkland 2016) and direct random target projection (Frenkel et al. 2021).

The network is a list of blocks, each a list of layers; the last block is the head and gets the true error. At the
OUTPUT of hidden block l the error is delta_l = e F_l, whatever lies above; inside the block it goes back through the
block's own layers, and it stops at the block's input.

    e = output error (n, c), already divided by n          direct feedback alignment
    e = one-hot labels (n, c) times `scale`                direct random target projection; the sign is that of the
                                                           authors' code: descent moves h_l against y F_l

The feedback of a hidden block is one of

    ("dense", F)                          F (c, units) or (c, channels, h, w): a weight for every class and unit
    ("per_channel", F, spatial_scale)     F (c, channels): the same at every pixel, times spatial_scale (1 / (h w) or 1)
    ("shared", F, factor)                 F (c, most units): the first units of it, times factor; one F for many blocks
    ("transposed_convolution", F, grid, stride, padding, dilation)
                                          BioTorch's: e is copied to every pixel of the grid (h', w') that the NEXT
                                          convolution puts out, and goes through the transpose of that convolution (its
                                          stride, padding, dilation; one group) with kernel F (c, channels, kh, kw). In
                                          the interior delta does not depend on the pixel (stride 1).
"""

from collections.abc import Sequence

import numpy as np

from tests.reference.network import (
    Array,
    Layer,
    error_to_input,
    forward,
    one_hot,
    output_error,
    pair,
    parameter_gradients,
)


def dense(e: Array, F: Array, shape: Sequence[int]) -> Array:
    return (e @ F.reshape(len(F), -1)).reshape(len(e), *shape)


def per_channel(e: Array, F: Array, spatial_scale: float, shape: Sequence[int]) -> Array:
    delta = np.zeros((len(e), *shape))
    for pixel in np.ndindex(*shape[1:]):
        delta[(slice(None), slice(None), *pixel)] = spatial_scale * (e @ F)
    return delta


def shared(e: Array, F: Array, factor: float, shape: Sequence[int]) -> Array:
    units = int(np.prod(shape))
    return factor * (e @ F[:, :units]).reshape(len(e), *shape)


def launay(uniform: Array, units: int) -> Array:
    """(c, units): a block's share of one matrix (c, most units) of uniform numbers in [-1, 1), Launay et al. 2020."""
    F = np.zeros((len(uniform), units))
    for c, u in np.ndindex(*F.shape):
        F[c, u] = uniform[c, u] / np.sqrt(units)
    return F


def transposed_convolution(
    e: Array,
    F: Array,
    grid: tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    shape: Sequence[int],
) -> Array:
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    delta = np.zeros((len(e), *shape))
    for p, q in np.ndindex(*grid):
        for a, b in np.ndindex(*F.shape[2:]):
            row, column = p * sh + a * dh - ph, q * sw + b * dw - pw
            if 0 <= row < shape[1] and 0 <= column < shape[2]:
                delta[:, :, row, column] += e @ F[:, :, a, b]
    return delta


PROJECTIONS = {
    "dense": dense,
    "per_channel": per_channel,
    "shared": shared,
    "transposed_convolution": transposed_convolution,
}


def block_grads(number: int, block: Sequence[Layer], x: Array, delta: Array) -> dict[str, Array]:
    """ "<block>.<layer>.weight" -> gradient, from the block's input x and the error at its output."""
    h = forward(block, x)
    gradients = {}
    for i in reversed(range(len(block))):
        gradients |= parameter_gradients(f"{number}.{i}", block[i], h[i], delta)
        delta = error_to_input(block[i], h[i], delta)
    return gradients


def grads(
    blocks: Sequence[Sequence[Layer]], x: Array, y: Array, feedback: Sequence[tuple], loss: str = "cross_entropy"
) -> dict[str, Array]:
    """Direct feedback alignment; `feedback` has one entry for every block but the last."""
    logits = forward([layer for block in blocks for layer in block], x)[-1]
    e = output_error(logits, y, loss)
    return grads_from_signal(blocks, x, e, feedback, e)


def drtp_grads(
    blocks: Sequence[Sequence[Layer]],
    x: Array,
    y: Array,
    feedback: Sequence[tuple],
    scale: float = 1.0,
    batch: str = "sum",
    loss: str = "cross_entropy",
) -> dict[str, Array]:
    """Direct random target projection; y are class numbers.

    `batch="sum"` is the authors' code: hidden errors are not divided by the batch size (the head's are, by the loss);
    `batch="mean"` divides them.
    """
    logits = forward([layer for block in blocks for layer in block], x)[-1]
    targets = scale * one_hot(y, logits.shape[1]) / (len(y) if batch == "mean" else 1)
    error_targets = one_hot(y, logits.shape[1]) if loss == "mse" else y
    return grads_from_signal(blocks, x, targets, feedback, output_error(logits, error_targets, loss))


def grads_from_signal(
    blocks: Sequence[Sequence[Layer]], x: Array, signal: Array, feedback: Sequence[tuple], head_error: Array
) -> dict[str, Array]:
    """`signal` (n, c) goes to every hidden block through its feedback, `head_error` (n, c) to the last block."""
    gradients, h = {}, x
    for number, block in enumerate(blocks):
        out = forward(block, h)[-1]
        if number == len(blocks) - 1:
            delta = head_error
        else:
            kind, *arguments = feedback[number]
            delta = PROJECTIONS[kind](signal, *arguments, out.shape[1:])
        gradients |= block_grads(number, block, h, delta)
        h = out
    return gradients
