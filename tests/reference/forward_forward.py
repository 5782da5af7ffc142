"""Forward-Forward (Hinton 2022) with the gradient written out, one sample at a time.

The label is written over the first c entries of the flattened input, or stands beside the input in c more channels, all
of whose entries are equal. Every hidden block reads the input divided by its
length, and learns from its own output h alone:

    goodness of a sample      G = sum_j h_j^2   or the mean over the u units
    gradient at the output    delta_j = (dL/dG) 2 h_j     (divided by u for the mean)

    loss          of a positive, dL/dG+                 of a negative, dL/dG-
    threshold     -tau sigmoid(tau (theta - G+))        +tau sigmoid(tau (G- - theta))          both over 2n
    margin        -tau if tau (G+ - theta) < 1          +tau if tau (G- - theta) > -1           both over 2n
    symba         -tau sigmoid(-tau (G+ - G-))          +tau sigmoid(-tau (G+ - G-))            over n pairs

A read-out on top learns from the softmax error on inputs whose label entries are all strength / c.

Without a head the read-out learns nothing.

A network is a list of blocks, the last one the read-out. How a block runs is the caller's business: `forward(block, x)`
gives output and notes, `backward(block, notes, delta)` the gradients of its weights by name.
"""

from collections.abc import Callable

import numpy as np

from tests.reference.network import Array, output_error


def sigmoid(z: float) -> float:
    return 1 / (1 + np.exp(-z))


def with_label(x: Array, label: Array) -> Array:
    """x (n, ...) whose first c entries are overwritten by label (n, c)."""
    written = x.copy()
    for sample, values in zip(written, label, strict=True):
        sample.reshape(-1)[: len(values)] = values
    return written


def beside(x: Array, label: Array) -> Array:
    """x (n, i, h, w) and label (n, c) to (n, i + c, h, w); x (n, ..., i) to (n, ..., i + c)."""
    if x.ndim == 4:
        planes = [[np.full(x.shape[2:], value) for value in values] for values in label]
        return np.concatenate([x, np.array(planes)], axis=1)
    features = np.zeros((*x.shape[:-1], label.shape[1]))
    for sample, values in zip(features, label, strict=True):
        sample[...] = values
    return np.concatenate([x, features], axis=-1)


def of_unit_length(x: Array, kind: str) -> Array:
    if kind == "none":
        return x
    scaled = np.empty_like(x)
    for k, sample in enumerate(x):
        if kind == "rms":
            scaled[k] = sample / (np.sqrt((sample**2).mean()) + 1e-8)
        else:
            scaled[k] = sample / (np.sqrt((sample**2).sum()) + 1e-4)
    return scaled


def goodness(h: Array, kind: str) -> Array:
    """(n,)"""
    return np.array([(sample**2).sum() if kind == "sum" else (sample**2).mean() for sample in h])


def losses(positive: Array, negative: Array, loss: str, theta: float, tau: float) -> float:
    """The value whose derivatives the table above gives."""
    if loss == "symba":
        return float(np.mean(np.log(1 + np.exp(-tau * (positive - negative)))))
    if loss == "threshold":
        terms = np.log(1 + np.exp(tau * (theta - positive))) + np.log(1 + np.exp(tau * (negative - theta)))
    else:
        terms = np.maximum(0, 1 - tau * (positive - theta)) + np.maximum(0, 1 + tau * (negative - theta))
    return float(terms.mean() / 2)


def slopes(positive: Array, negative: Array, loss: str, theta: float, tau: float) -> tuple[Array, Array]:
    """(dL/dG+, dL/dG-), (n,) each."""
    n, up, down = len(positive), np.zeros(len(positive)), np.zeros(len(positive))
    for k in range(n):
        if loss == "threshold":
            up[k] = -tau * sigmoid(tau * (theta - positive[k])) / (2 * n)
            down[k] = tau * sigmoid(tau * (negative[k] - theta)) / (2 * n)
        elif loss == "margin":
            up[k] = -tau / (2 * n) if tau * (positive[k] - theta) < 1 else 0
            down[k] = tau / (2 * n) if tau * (negative[k] - theta) > -1 else 0
        else:
            up[k] = -tau * sigmoid(-tau * (positive[k] - negative[k])) / n
            down[k] = -up[k]
    return up, down


def delta(h: Array, slope: Array, kind: str) -> Array:
    """The error at a block's output h (n, ...) from dL/dG (n,)."""
    units = h[0].size if kind == "mean" else 1
    return np.stack([s * 2 * sample / units for s, sample in zip(slope, h, strict=True)])


def grads(
    blocks: list,
    x: Array,
    y: Array,
    wrong: Array,
    classes: int,
    forward: Callable,
    backward: Callable,
    *,
    loss: str,
    goodness_is: str,
    theta: float | None,
    tau: float,
    normalise: str,
    strength: float = 1.0,
    label: str = "pixels",
    head: str = "softmax",
) -> dict[str, Array]:
    """Gradients of all blocks. theta None: 2 for the mean, the number of units for the sum."""
    names, hot, write = {}, strength * np.eye(classes), beside if label == "channels" else with_label
    positive, negative = (of_unit_length(write(x, hot[labels]), normalise) for labels in (y, wrong))
    neutral = of_unit_length(write(x, np.full((len(x), classes), strength / classes)), normalise)
    for block in blocks[:-1]:
        up, up_notes = forward(block, positive)
        down, down_notes = forward(block, negative)
        limit = (up[0].size if goodness_is == "sum" else 2.0) if theta is None else theta
        signs = slopes(goodness(up, goodness_is), goodness(down, goodness_is), loss, limit, tau)
        first = backward(block, up_notes, delta(up, signs[0], goodness_is))
        second = backward(block, down_notes, delta(down, signs[1], goodness_is))
        names |= {name: first[name] + second[name] for name in first}
        positive, negative = of_unit_length(up, normalise), of_unit_length(down, normalise)
        neutral = of_unit_length(forward(block, neutral)[0], normalise)
    if head == "none":
        return names
    logits, notes = forward(blocks[-1], neutral)
    return names | backward(blocks[-1], notes, output_error(logits, y))


def neutral_logits(
    blocks: list, x: Array, classes: int, forward: Callable, normalise: str = "rms", label: str = "pixels"
) -> Array:
    """(n, c): the read-out of inputs whose label is 1/c everywhere."""
    write = beside if label == "channels" else with_label
    h = of_unit_length(write(x, np.full((len(x), classes), 1 / classes)), normalise)
    for block in blocks[:-1]:
        h = of_unit_length(forward(block, h)[0], normalise)
    return forward(blocks[-1], h)[0]


def scores(
    blocks: list, x: Array, classes: int, forward: Callable, first: int, label: str = "pixels", normalise: str = "rms"
) -> Array:
    """(n, c): the mean-square goodness with each label, summed over the hidden blocks from number `first` on."""
    found = np.zeros((len(x), classes))
    for k in range(classes):
        hot = np.zeros((len(x), classes))
        hot[:, k] = 1.0
        h = of_unit_length(beside(x, hot) if label == "channels" else with_label(x, hot), normalise)
        for number, block in enumerate(blocks[:-1]):
            h = forward(block, h)[0]
            if number >= first:
                found[:, k] += goodness(h, "mean")
            h = of_unit_length(h, normalise)
    return found
