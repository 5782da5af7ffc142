"""Kolen & Pollack (1994), Akrout et al. (2019): weights and feedback take the same increment and decay alike.

    W <- (1 - lambda eta) W - eta G        B <- (1 - lambda eta) B - eta G

so W - B = (1 - lambda eta)^t (W - B)_0. With momentum both follow torch's SGD, each with a buffer of its own:

    g = G + lambda p        v <- mu v + g  (v = g at the first step)        p <- p - eta v
"""

from collections.abc import Sequence

from tests.reference import feedback_alignment
from tests.reference.network import WEIGHTED, Array, Layer


def sgd(p: Array, v: Array | None, G: Array, lr: float, weight_decay: float, momentum: float) -> tuple[Array, Array]:
    """One step of torch's SGD (no dampening, no Nesterov): new parameter and new buffer."""
    g = G + weight_decay * p
    v = g if v is None else momentum * v + g
    return p - lr * v, v


def matrix_trajectory(
    W: Array, B: Array, gradients: Sequence[Array], lr: float, weight_decay: float = 0.0, momentum: float = 0.0
) -> list[tuple[Array, Array]]:
    """[(W, B) before, after step 1, ...] for given gradients G of one layer."""
    v_W = v_B = None
    states = [(W, B)]
    for G in gradients:
        W, v_W = sgd(W, v_W, G, lr, weight_decay, momentum)
        B, v_B = sgd(B, v_B, G, lr, weight_decay, momentum)
        states.append((W, B))
    return states


def trajectory(
    layers: Sequence[Layer],
    feedback: dict[int, Array],
    batches: Sequence[tuple[Array, Array]],
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    loss: str = "cross_entropy",
) -> list[tuple[list[Layer], dict[int, Array]]]:
    """[(layers, feedback) before, after batch 1, ...]: feedback alignment through the present B at every step.

    Biases move like weights, decay included. `feedback` needs an entry for every layer whose B shall move.
    """
    layers, feedback = list(layers), dict(feedback)
    buffers: dict[tuple, Array] = {}
    states = [(list(layers), dict(feedback))]
    for x, y in batches:
        G = feedback_alignment.grads(layers, x, y, feedback, loss)
        for i, layer in enumerate(layers):
            if layer[0] not in WEIGHTED:
                continue
            kind, W, b, *geometry = layer
            key = ("W", i)
            W, buffers[key] = sgd(W, buffers.get(key), G[f"{i}.weight"], lr, weight_decay, momentum)
            if b is not None:
                key = ("b", i)
                b, buffers[key] = sgd(b, buffers.get(key), G[f"{i}.bias"], lr, weight_decay, momentum)
            if i in feedback:
                key = ("B", i)
                feedback[i], buffers[key] = sgd(
                    feedback[i], buffers.get(key), G[f"{i}.weight"], lr, weight_decay, momentum
                )
            layers[i] = (kind, W, b, *geometry)
        states.append((list(layers), dict(feedback)))
    return states
