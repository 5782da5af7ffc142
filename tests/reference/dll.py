"""Dendritic localized learning (Lv et al. 2025, eq. 6 to 9), in the paper's signs: errors xi are target minus output.

    xi_L      = y - softmax(u_L)                    one sample
    d_i       = xi_{i+1} * f'(W_i u_i)
    xi_i      = Theta_i^T d_i
    W_i      <- W_i     + eta_W * d_i u_i^T         mean over the batch
    Theta_i  <- Theta_i - eta_Theta * d_i xi_i^T    mean over the batch; the released code has a plus

A network is a list of layers as in `tests.contract.literal`, whose `forward` and `backward` of single layers the caller
passes. `backward(layers, notes, error, feedback)` sends an error through the transpose of `feedback[name]`.
"""

import numpy as np


def grads(layers, x, y, theta, sign, forward, backward):
    """Name to gradient for descent: minus the update of W and of Theta. `sign`: 1 for the paper's Theta, -1, or 0.

    theta: name of a layer to Theta; a layer that is not in it is the first one, whose input needs no error.
    """
    logits, notes = forward(layers, x)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    xi = np.eye(logits.shape[1])[y] - probabilities
    return errors_and_updates(layers, notes, xi, theta, sign, forward, backward)[1]


def errors_and_updates(layers, notes, xi, theta, sign, forward, backward):
    """The errors at the input, and the gradients."""
    gradients = {}
    for layer, note in zip(reversed(layers), reversed(notes), strict=True):
        if layer[0] == "residual":
            through, inside = errors_and_updates(layer[1], note, xi, theta, sign, forward, backward)
            xi, gradients = xi + through, gradients | inside
        elif layer[0] in ("linear", "conv"):
            d, name, n = xi, layer[1], len(xi)
            xi, increments = backward([layer], [note], d, theta)
            gradients |= {parameter: -increment / n for parameter, increment in increments.items()}
            if name in theta and sign:
                product = backward([layer], [xi], d, theta)[1][f"{name}.weight"]  # d xi^T: xi in the place of u
                gradients[f"{name}.feedback.weight"] = sign * product / n
        else:
            xi, _ = backward([layer], [note], xi, {})
    return xi, gradients
