"""The hand-written backward pass against finite differences, the forward pass against torch."""

import numpy as np
import pytest
import torch

from tests.reference import backprop
from tests.reference.network import forward, loss_value
from tests.reference.samples import (
    assert_equal_gradients,
    convolutions,
    draw,
    finite_differences,
    images,
    parameters,
    perceptron,
)

GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": (1, 2), "dilation": 2},
    {"stride": (2, 1), "dilation": (1, 2), "padding": 1, "groups": 2},
    {"groups": 4},
]
ACTIVATIONS = [("relu",), ("leaky_relu", 0.2), ("tanh",), ("sigmoid",), ("gelu",), ("identity",)]
LABELS = np.array([2, 0])


def numeric_grads(layers, x, y, loss="cross_entropy"):
    def value():
        return loss_value(forward(layers, x)[-1], y, loss)

    return {name: finite_differences(value, array) for name, array in parameters(layers).items()}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution_is_torchs(geometry):
    layer = convolutions(**geometry)[3]
    x = draw(1, 2, 4, 6, 6)
    _, W, b, stride, padding, dilation, groups = layer
    expected = torch.nn.functional.conv2d(
        *map(torch.from_numpy, (x, W, b)), stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    np.testing.assert_allclose(forward([layer], x)[-1], expected.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["max", "avg"])
def test_pools_are_torchs(name):
    x = draw(1, 2, 3, 5, 7)
    expected = getattr(torch.nn.functional, f"{name}_pool2d")(torch.from_numpy(x), 2).numpy()
    np.testing.assert_allclose(forward([(f"{name}pool2",)], x)[-1], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "geometry", [pytest.param(g, marks=() if {"groups", "dilation"} <= {*g} else pytest.mark.slow) for g in GEOMETRIES]
)
def test_gradients_of_a_convolutional_network_are_the_finite_differences(geometry):
    layers = convolutions(**geometry)
    # central differences with step 1e-6 are good to about 1e-9
    assert_equal_gradients(backprop.grads(layers, images(), LABELS), numeric_grads(layers, images(), LABELS), atol=1e-8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_gradients_of_a_perceptron_are_the_finite_differences(activation, loss):
    layers, x = perceptron(activation), draw(7, 4, 5)
    y = draw(8, 4, 3) if loss == "mse" else np.array([0, 2, 1, 1])
    assert_equal_gradients(backprop.grads(layers, x, y, loss), numeric_grads(layers, x, y, loss), atol=1e-8)


def test_losses_are_torchs():
    logits, classes, targets = draw(1, 4, 3), np.array([0, 2, 1, 1]), draw(2, 4, 3)
    z = torch.from_numpy(logits)
    cross_entropy = torch.nn.functional.cross_entropy(z, torch.from_numpy(classes)).item()
    assert loss_value(logits, classes) == pytest.approx(cross_entropy, rel=1e-13)
    mse = torch.nn.functional.mse_loss(z, torch.from_numpy(targets)).item()
    assert loss_value(logits, targets, "mse") == pytest.approx(mse, rel=1e-13)


def test_two_weights_by_hand():
    # z = 2 x = 4, h = relu(z) = 4, out = 3 h = 12, mse to 10: e = 2 (12 - 10) = 4; G2 = e h = 16; G1 = e 3 x = 24
    layers = [("linear", np.array([[2.0]]), None), ("relu",), ("linear", np.array([[3.0]]), None)]
    gradients = backprop.grads(layers, np.array([[2.0]]), np.array([[10.0]]), "mse")
    assert gradients == {"0.weight": np.array([[24.0]]), "2.weight": np.array([[16.0]])}
