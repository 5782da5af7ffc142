"""PEPITA (Dellaferrera & Kreiman 2022), two forward passes and no backward pass, written out.

    pass 1    h_0 = x,         h_l = f(W_l h_{l-1}),    e = softmax(logits) - one-hot
    pass 2    h~_0 = x + F e,  h~_l by the same weights
    hidden    G_l = mean over samples (and positions) of (h_l - h~_l) h~_{l-1}^T      a bias: the mean of h_l - h~_l
    output    G_L = mean over samples of e* h~_{L-1}^T,  e* = e~ of pass 2 or e of pass 1

The chain is a list of parts: the layer with its activation, whose output is h_l, then pools and the like. The caller
runs the layers: `forward(layers, x)` returns output and notes, `backward(layers, notes, delta)` the sum over the batch
of delta times the layer's input.
"""

from collections.abc import Callable

import numpy as np

from tests.reference.network import Array, one_hot, softmax


def run(parts: list, h: Array, forward: Callable) -> tuple[list[Array], list[Array]]:
    """The inputs of the layers and their activations; the last activation is the logits."""
    inputs, activations = [], []
    for layer, rest in parts:
        inputs.append(h)
        h, _ = forward(layer, h)
        activations.append(h)
        h, _ = forward(rest, h)
    return inputs, activations


def modulated(x: Array, error: Array, F: Array) -> Array:
    """x + F e, sample by sample; F: (c, *x)."""
    return np.array(
        [sample + sum(e * f for e, f in zip(row, F, strict=True)) for sample, row in zip(x, error, strict=True)]
    )


def grads(
    before: list, parts: list, x: Array, y: Array, F: Array, output_error: str, forward: Callable, backward: Callable
) -> dict[str, Array]:
    """Name to gradient; `output_error`: second or first."""
    _, clean = run(parts, forward(before, x)[0], forward)
    hot = one_hot(y, clean[-1].shape[1])
    error = softmax(clean[-1]) - hot
    inputs, other = run(parts, forward(before, modulated(x, error, F))[0], forward)
    signals = [h - h_other for h, h_other in zip(clean, other, strict=True)]
    signals[-1] = error if output_error == "first" else softmax(other[-1]) - hot
    gradients = {}
    for (layer, _), h, signal in zip(parts, inputs, signals, strict=True):
        kind = layer[0][0]
        units = signal.shape[1] if kind == "conv" else signal.shape[-1]
        samples_and_positions = signal.size // units
        _, sums = backward(layer[:1], [h], signal)
        gradients |= {name: total / samples_and_positions for name, total in sums.items()}
    return gradients
