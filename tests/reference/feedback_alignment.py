"""Feedback alignment (Lillicrap et al. 2016): delta_{i-1} = (delta_i B_i) * phi'(z_{i-1}), B_i fixed, shaped as W_i."""

from collections.abc import Mapping, Sequence

from tests.reference.network import Array, Layer, error_to_input, forward, output_error, parameter_gradients


def grads(
    layers: Sequence[Layer], x: Array, y: Array, feedback: Mapping[int, Array], loss: str = "cross_entropy"
) -> dict[str, Array]:
    """The update's direction for every parameter.

    `feedback` maps the index of a weight layer to its B; a layer that is not in it sends the error back through its own
    weights (as when only some layers of a network are given feedback). The first weight layer's B is never used.
    """
    h = forward(layers, x)
    delta = output_error(h[-1], y, loss)
    gradients = {}
    for i in reversed(range(len(layers))):
        gradients |= parameter_gradients(str(i), layers[i], h[i], delta)
        delta = error_to_input(layers[i], h[i], delta, feedback.get(i))
    return gradients
