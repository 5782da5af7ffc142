"""What training conserves at every hidden neuron j (Robertson & Koyejo 2024, Theorem 5.2; Du et al. 2018 for backprop).

W_in[j, :], b_in[j] enter neuron j, W_out[:, j] leaves it, B_out[:, j] brings its error. Under gradient flow, for a
positively homogeneous activation (relu, leaky relu, identity; pools in between do no harm), these are constant:

    "fa"    <W_out[:, j], B_out[:, j]>  - 1/2 ||W_in[j, :]||^2 - 1/2 b_in[j]^2      fixed B
    "bp"    1/2 ||W_out[:, j]||^2       - 1/2 ||W_in[j, :]||^2 - 1/2 b_in[j]^2
    "kp"    1/2 ||B_out[:, j]||^2       - 1/2 ||W_in[j, :]||^2 - 1/2 b_in[j]^2      Kolen-Pollack without decay

Plain SGD with steps eta_t changes them by exactly (g: gradients with respect to W_in[j, :] and b_in[j]; G: W_out[:, j])

    "fa"         - 1/2 sum_t eta_t^2 ||g_t||^2
    "bp", "kp"   + 1/2 sum_t eta_t^2 (||G_t||^2 - ||g_t||^2)

For convolutions a neuron is a channel and the sums run over the kernel; a linear layer behind flattened maps has
several columns for each channel.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tests.reference import kolen_pollack
from tests.reference.feedback_alignment import grads
from tests.reference.network import WEIGHTED, Array, Layer


def leaving(W_out: Array, neurons: int, j: int) -> Array:
    """All weights of the next layer that multiply neuron (channel) j."""
    return W_out.reshape(len(W_out), neurons, -1)[:, j]


def potentials(law: str, W_in: Array, b_in: Array | None, W_out: Array, B_out: Array | None = None) -> Array:
    """The potential of every neuron, (neurons,). "bp" needs no B_out."""
    C = np.zeros(len(W_in))
    for j in range(len(W_in)):
        left = leaving(W_out, len(W_in), j)
        back = left if law == "bp" else leaving(B_out, len(W_in), j)
        if law == "fa":
            C[j] = (left * back).sum()
        else:
            C[j] = 0.5 * (back**2).sum()
        C[j] -= 0.5 * (W_in[j] ** 2).sum()
        C[j] -= 0 if b_in is None else 0.5 * b_in[j] ** 2
    return C


def step_drift(law: str, lr: float, g_W_in: Array, g_b_in: Array | None, g_W_out: Array) -> Array:
    """What one step of plain SGD adds to the potential of every neuron, (neurons,)."""
    drift = np.zeros(len(g_W_in))
    for j in range(len(g_W_in)):
        entering = (g_W_in[j] ** 2).sum() + (0 if g_b_in is None else g_b_in[j] ** 2)
        left = 0 if law == "fa" else (leaving(g_W_out, len(g_W_in), j) ** 2).sum()
        drift[j] = 0.5 * lr**2 * (left - entering)
    return drift


def measured_and_predicted(
    law: str,
    layers: Sequence[Layer],
    feedback: dict[int, Array],
    batches: Sequence[tuple[Array, Array]],
    lr: float,
    loss: str = "cross_entropy",
) -> dict[int, tuple[Array, Array]]:
    """Train with plain SGD; index of a hidden weight layer -> potentials (steps + 1, neurons) measured, and predicted
    from those at the start and the gradients on the way. "bp" takes feedback {}."""
    weighted = [i for i, layer in enumerate(layers) if layer[0] in WEIGHTED]
    hidden = list(pairwise(weighted))
    states = [(list(layers), dict(feedback))]
    drifts = {i: [] for i, _ in hidden}
    for x, y in batches:
        now, B = states[-1]
        G = grads(now, x, y, B, loss)
        for i, out in hidden:
            drifts[i].append(step_drift(law, lr, G[f"{i}.weight"], G.get(f"{i}.bias"), G[f"{out}.weight"]))
        after, B_after = kolen_pollack.trajectory(now, B, [(x, y)], lr, loss=loss)[1]
        states.append((after, B_after if law == "kp" else B))
    answer = {}
    for i, out in hidden:
        C = np.array([potentials(law, s[i][1], s[i][2], s[out][1], B.get(out)) for s, B in states])
        answer[i] = (C, C[0] + np.cumsum([np.zeros(C.shape[1]), *drifts[i]], axis=0))
    return answer
