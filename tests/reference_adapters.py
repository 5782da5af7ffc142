"""Adapters between learners and the literal float64 references.

A reference receives plain arrays: the weights of the network, the matrices that the rule stores, inputs (n, ...) and
labels (n,). An adapter reads them from a learner and returns gradients by the learner's parameter names.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from lit_fa.layers import feedback_layers
from lit_fa.layers.factored import FactoredConv2d, FactoredLayer, factored_layers
from lit_fa.modules import Learner
from tests.contract import literal
from tests.gradients import array
from tests.reference import factored, forward_forward, local_losses
from tests.small_networks import CLASSES, Mean, Residual


def described(module: nn.Module, name: str) -> list[tuple]:
    """A layer as the literal reference reads it."""
    if isinstance(module, nn.Sequential):
        return [layer for child, m in module.named_children() for layer in described(m, f"{name}.{child}")]
    if isinstance(module, Residual):
        return [("residual", described(module.inside, f"{name}.inside"))]
    if isinstance(module, Mean | nn.AdaptiveAvgPool2d):
        return [("mean", getattr(module, "dims", (2, 3)))]
    weight, bias = array(getattr(module, "weight", None)), array(getattr(module, "bias", None))
    if isinstance(module, FactoredLayer):
        return [described_factors(module, name, (module.U, module.s, module.V), bias)]
    if isinstance(module, nn.Linear):
        return [("linear", name, weight, bias)]
    if isinstance(module, nn.Conv2d):
        geometry = (module.stride, pad(module), module.padding_mode, module.dilation, module.groups)
        return [("conv", name, weight, bias, *geometry)]
    if isinstance(module, nn.BatchNorm2d):
        return [("batch_norm", name, weight, bias, module.eps)]
    return [({nn.Tanh: "tanh", nn.ReLU: "relu", nn.Flatten: "flatten"}[type(module)],)]


def described_factors(module: FactoredLayer, name: str, factors: tuple, bias: np.ndarray | None) -> tuple:
    """A factored layer, with these factors, as the dense one that it stands for."""
    weight = factored.dense(*map(array, factors), module.shape)
    if not isinstance(module, FactoredConv2d):
        return ("linear", name, weight, bias)
    _, stride, (rows, columns), dilation = module.geometry
    left, right, top, bottom = module.sides
    sides = ((top, bottom), (left, right)) if any(module.sides) else ((rows, rows), (columns, columns))
    mode = {"constant": "zeros"}.get(module.mode, module.mode)
    return ("conv", name, weight, bias, stride, sides, mode, dilation, 1)


def pad(conv: nn.Conv2d) -> tuple[tuple[int, int], ...]:
    """(before, after) for rows and columns."""
    if conv.padding != "same":
        return tuple((p, p) for p in conv.padding)
    total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    return tuple((t // 2, t - t // 2) for t in total)


def backprop_reference(learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    return in_factors(learner, literal.feedback_alignment(described(learner.network, "network"), x, y, {})[0])


def feedback_reference(
    matrix: Callable, trained: bool, learner: Learner, x: np.ndarray, y: np.ndarray
) -> dict[str, np.ndarray]:
    """`matrix(W, stored)` is the rule's literal backward matrix; `trained` feedback has the gradient of its weight."""
    layers = {f"network.{name}": layer for name, layer in feedback_layers(learner.network).items()}
    used = {name: matrix(array(layer.weight), array(layer.feedback.weight)) for name, layer in layers.items()}
    grads, _ = literal.feedback_alignment(described(learner.network, "network"), x, y, used)
    return grads | ({f"{name}.feedback.weight": grads[f"{name}.weight"] for name in layers} if trained else {})


def direct_reference(teacher: str, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    blocks = divided(learner.network, [key.replace("/", ".") for key in learner.rule.feedback])
    feedback, h = [], x
    for block, direct in zip(blocks, learner.rule.feedback.values(), strict=False):
        h, _ = literal.forward(block, h)
        feedback.append(np.broadcast_to(array(direct.weight), (CLASSES, *h.shape[1:])))
    return literal.direct_feedback_alignment(blocks, x, y, feedback, teacher)[0]


def divided(network: nn.Module, ends: list[str]) -> list[list[tuple]]:
    """The network's layers as a list of blocks, each but the last up to the child that `ends` names."""
    blocks = [[]]
    for name, module in network.named_children():
        blocks[-1] += described(module, f"network.{name}")
        if name in ends:
            blocks.append([])
    return blocks


def in_factors(learner: Learner, grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gradients of dense weights as those of U, s and V, where the layer has them."""
    for name, layer in factored_layers(learner.network).items():
        factors = (array(layer.U), array(layer.s), array(layer.V))
        made = factored.factor_gradients(grads.pop(f"network.{name}.weight"), *factors)
        grads |= {f"network.{name}.{side}": g for side, g in zip("UsV", made, strict=True)}
    return grads


def dense_feedback(learner: Learner) -> dict[str, np.ndarray]:
    """Layer to B, dense, of the layers that have factored feedback."""
    layers = {name: layer for name, layer in factored_layers(learner.network).items() if layer.feedback is not None}
    return {
        f"network.{name}": factored.dense(*map(array, layer.feedback.factors), layer.shape)
        for name, layer in layers.items()
    }


def factored_reference(learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Backprop, or feedback alignment through dense B, and the factors' share of each weight's gradient."""
    layers = described(learner.network, "network")
    return in_factors(learner, literal.feedback_alignment(layers, x, y, dense_feedback(learner))[0])


def ssa_direct_reference(product: bool, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    direct = learner.rule.direct.feedback
    blocks = divided(learner.network, [key.replace("/", ".") for key in direct])
    inside = dense_feedback(learner)
    notes, h = [], x
    for block in blocks:
        h, note = literal.forward(block, h)
        notes.append(note)
    error, _ = literal.softmax_error(h, y)
    grads = literal.backward(blocks[-1], notes[-1], error, inside)[1]
    linear = [linear_layers(block, inside) for block in blocks]
    for number, link in enumerate(direct.values()):
        shape = blocks_output(blocks[: number + 1], x[:1])
        drawn = np.broadcast_to(array(link.weight), (CLASSES, *shape))
        matrix = chained(linear[number + 1 :], shape) if product else drawn
        delta = np.tensordot(error, matrix, axes=1)
        grads |= literal.backward(blocks[number], notes[number], delta, inside)[1]
    return in_factors(learner, grads)


def linear_layers(layers: list[tuple], feedback: dict) -> list[tuple]:
    """The layers without activations and biases, and with feedback for weights."""
    made = []
    for kind, *rest in layers:
        if kind == "residual":
            made.append((kind, linear_layers(rest[0], feedback)))
        elif kind in ("linear", "conv"):
            name, weight, _, *geometry = rest
            made.append((kind, name, feedback.get(name, weight), None, *geometry))
        elif kind not in ("relu", "tanh"):
            made.append((kind, *rest))
    return made


def chained(blocks: list[list[tuple]], shape: tuple[int, ...]) -> np.ndarray:
    """(c, *shape): what one unit of error at each logit is after the way back through linear blocks."""
    notes, h = [], np.zeros((CLASSES, *shape))
    for block in blocks:
        h, note = literal.forward(block, h)
        notes.append(note)
    delta = np.eye(CLASSES)
    for block, note in zip(reversed(blocks), reversed(notes), strict=True):
        delta, _ = literal.backward(block, note, delta, {})
    return delta


def blocks_output(blocks: list[list[tuple]], x: np.ndarray) -> tuple[int, ...]:
    """Shape of the output for one sample."""
    for block in blocks:
        x, _ = literal.forward(block, x)
    return x.shape[1:]


def forward_forward_reference(options: dict, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Which labels are wrong is the rule's draw, tested on its own; what is learned from them is not."""
    blocks = forward_forward_blocks(learner)
    shown = {name: options[name] for name in ("label", "normalise")}
    logits = forward_forward.neutral_logits(blocks, x, CLASSES, literal.forward, **shown)
    wrong = learner.rule.wrong_labels(torch.tensor(x), torch.tensor(y), torch.tensor(logits))
    grads = forward_forward.grads(
        blocks, x, y, array(wrong), CLASSES, literal.forward,
        lambda block, notes, delta: literal.backward(block, notes, delta, {})[1], **options,
    )  # fmt: skip
    if options["label"] == "channels":
        inputs = learner.network[0].weight.shape[1]
        whole = grads["network.0.weight"]
        grads |= {"network.0.weight": whole[:, :inputs], "network.0.label.weight": whole[:, inputs:]}
    return grads


def forward_forward_blocks(learner: Learner) -> list[list[tuple]]:
    """The network in blocks; a first layer that has weights for label channels is one wider layer."""
    blocks = divided(learner.network, learner.rule.taps.names)
    if hasattr(learner.network[0], "label"):
        kind, name, weight, *rest = blocks[0][0]
        wider = np.concatenate([weight, array(learner.network[0].label.weight)], axis=1)
        blocks[0][0] = (kind, name, wider, *rest)
    return blocks


def predsim_reference(beta: float, limit: int, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    def delta(key: str) -> Callable:
        auxiliary, prefix = learner.rule.auxiliary[key], f"rule.auxiliary.{key}"
        prediction = described(auxiliary["prediction"].linear, f"{prefix}.prediction.linear") if beta < 1 else None
        matched = described(auxiliary["similarity"], f"{prefix}.similarity") if beta > 0 else None
        return lambda h, y: local_losses.predsim_delta(
            h, y, CLASSES, prediction, matched, beta, limit, literal.forward, plain_backward
        )

    return local_reference(delta, learner, x, y)


def auglocal_reference(learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    def delta(key: str) -> Callable:
        layers = described(learner.rule.auxiliary[key], f"rule.auxiliary.{key}")
        return lambda h, y: local_losses.auglocal_delta(h, y, layers, literal.forward, plain_backward)

    return local_reference(delta, learner, x, y)


def local_reference(delta: Callable, learner: Learner, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """`delta(key)` is the literal error of the block with that auxiliary network."""
    blocks = divided(learner.network, learner.rule.taps.names)
    shapes = [unit.shape for unit in learner.rule.units.values()]
    deltas = [delta(key) for key in learner.rule.auxiliary]
    return local_losses.grads(blocks, x, y, shapes, deltas, literal.forward, plain_backward)


def plain_backward(layers: list, notes: list, delta: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return literal.backward(layers, notes, delta, {})


def usf(weight: np.ndarray, stored: None) -> np.ndarray:
    field_size = np.prod(weight.shape[2:])
    return np.sqrt(2 / ((weight.shape[0] + weight.shape[1]) * field_size)) * np.sign(weight)


def signed(weight: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return np.abs(stored) * np.sign(weight)


def as_stored(weight: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return stored


def norm_of_weight(weight: np.ndarray, stored: None) -> np.ndarray:
    return np.sign(weight) * np.sqrt((weight**2).sum() / (np.sign(weight) ** 2).sum())


def rows_of_weight(weight: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return np.stack([b * np.sqrt((w**2).sum() / (b**2).sum()) for w, b in zip(weight, stored, strict=True)])


def whole_of_weight(weight: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return stored * np.sqrt((weight**2).sum() / (stored**2).sum())
