"""The literal code that judges every case agrees with the papers' references, written by another hand."""

import numpy as np
import pytest

from tests.contract import literal
from tests.reference import backprop, direct_feedback_alignment, feedback_alignment
from tests.reference.samples import convolutions, draw, images, perceptron, random_feedback

GEOMETRIES = [{}, {"stride": 2}, {"padding": (1, 2)}, {"dilation": (2, 1)}, {"groups": 2}]


def pair(value: int | tuple) -> tuple:
    return value if isinstance(value, tuple) else (value, value)


def as_literal(layers: list[tuple], prefix: str = "") -> list[tuple]:
    """The other reference's layers in this one's words; its pools and leaky ReLU become what both have."""
    translated = []
    for i, (kind, *rest) in enumerate(layers):
        if kind == "conv":
            weight, bias, stride, padding, dilation, groups = rest
            pads = tuple((p, p) for p in pair(padding))
            rest = [f"{prefix}{i}", weight, bias, pair(stride), pads, "zeros", pair(dilation), groups]
        elif kind == "linear":
            rest = [f"{prefix}{i}", *rest]
        translated.append((kind, *rest))
    return translated


def network(geometry: dict) -> list[tuple]:
    common = [layer for layer in convolutions(**geometry) if layer[0] in ("conv", "tanh")]
    units = np.prod(literal.forward(as_literal(common), images(1))[0].shape)
    return [common[0], ("relu",), *common[1:], ("flatten",), ("linear", draw(4, 3, units), draw(5, 3))]


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert max(np.abs(one[k] - other[k]).max() for k in one) < 1e-11


@pytest.mark.parametrize(
    "layers", [perceptron(), *map(network, GEOMETRIES)], ids=["mlp", "conv", "stride", "padding", "dilation", "groups"]
)
def test_backprop_and_feedback_alignment_agree(layers: list[tuple]):
    x, y = (draw(7, 4, 5), np.array([0, 2, 1, 2])) if layers[0][0] == "linear" else (images(2), np.array([0, 2]))
    feedback = random_feedback(layers)
    named = {str(i): matrix for i, matrix in feedback.items()}
    assert_equal(literal.feedback_alignment(as_literal(layers), x, y, {})[0], backprop.grads(layers, x, y))
    ours = literal.feedback_alignment(as_literal(layers), x, y, named)[0]
    assert_equal(ours, feedback_alignment.grads(layers, x, y, feedback))


@pytest.mark.parametrize("teacher", ["error", "target"])
def test_direct_feedback_agrees(teacher: str):
    layers = perceptron()
    blocks = [layers[:2], layers[2:4], layers[4:]]
    x, y, matrices = draw(7, 4, 5), np.array([0, 2, 1, 2]), [draw(20, 3, 4), draw(21, 3, 6)]
    named = [as_literal(block, f"{k}.") for k, block in enumerate(blocks)]
    ours, _ = literal.direct_feedback_alignment(named, x, y, matrices, teacher)
    dense = [("dense", F) for F in matrices]
    if teacher == "error":
        assert_equal(ours, direct_feedback_alignment.grads(blocks, x, y, dense))
    else:
        assert_equal(ours, direct_feedback_alignment.drtp_grads(blocks, x, y, dense, batch="mean"))
