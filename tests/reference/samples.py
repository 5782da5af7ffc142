"""Small networks, batches and finite differences for the tests of the references themselves."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from tests.reference.network import WEIGHTED, Array, Layer, forward


def draw(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def perceptron(activation: Layer = ("tanh",), widths: tuple[int, ...] = (5, 4, 6, 3), bias: bool = True) -> list[Layer]:
    """linear, activation, linear, activation, ..., linear."""
    layers = []
    for k, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers += [("linear", draw(k, fan_out, fan_in), draw(50 + k, fan_out) if bias else None), activation]
    return layers[:-1]


def convolutions(stride: int | tuple = 1, padding: int | tuple = 0, dilation: int | tuple = 1, groups: int = 1):
    """conv, leaky relu, max pool, conv with the given geometry, tanh, mean pool, flatten, linear: 2 x 10 x 11 -> 3."""
    geometry = (stride, padding, dilation, groups)
    second = ("conv", draw(2, 4, 4 // groups, 2, 3), draw(3, 4), *geometry)
    layers = [
        ("conv", draw(0, 4, 2, 3, 3), draw(1, 4), 1, 1, 1, 1),
        ("leaky_relu", 0.1),
        ("maxpool2",),
        second,
        ("tanh",),
        ("avgpool2",),
        ("flatten",),
    ]
    units = forward(layers, draw(9, 1, 2, 10, 11))[-1].shape[1]
    return [*layers, ("linear", draw(4, 3, units), None)]


def images(n: int = 2) -> Array:
    return draw(10, n, 2, 10, 11)


def random_feedback(layers: list[Layer], seed: int = 100) -> dict[int, Array]:
    return {i: draw(seed + i, *layer[1].shape) for i, layer in enumerate(layers) if layer[0] in WEIGHTED}


def own_weights(layers: list[Layer]) -> dict[int, Array]:
    return {i: layer[1] for i, layer in enumerate(layers) if layer[0] in WEIGHTED}


def assert_equal_gradients(one: dict[str, Array], other: dict[str, Array], atol: float = 1e-12) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=atol, err_msg=name)


def parameters(layers: Sequence[Layer]) -> dict[str, Array]:
    """The live arrays of a network by name."""
    named = {}
    for i, layer in enumerate(layers):
        if layer[0] in WEIGHTED:
            named[f"{i}.weight"] = layer[1]
            if layer[2] is not None:
                named[f"{i}.bias"] = layer[2]
    return named


def finite_differences(function: Callable[[], float], array: Array, step: float = 1e-6) -> Array:
    """Central differences of `function()` with respect to each entry of `array`, which it reads."""
    gradient = np.zeros(array.shape)
    for index in np.ndindex(*array.shape):
        kept = array[index]
        array[index] = kept + step
        above = function()
        array[index] = kept - step
        gradient[index] = (above - function()) / (2 * step)
        array[index] = kept
    return gradient
