"""Feedback alignment and sign feedback: equal to backprop where theory says so, to a hand calculation elsewhere."""

import numpy as np
import pytest

from tests.reference import backprop, feedback_alignment, sign_feedback
from tests.reference.network import forward, output_error
from tests.reference.samples import (
    assert_equal_gradients,
    convolutions,
    draw,
    finite_differences,
    images,
    own_weights,
    perceptron,
    random_feedback,
)

CASES = {
    "perceptron": (perceptron(("relu",)), draw(1, 4, 5), np.array([0, 2, 1, 1])),
    "convolutions": (convolutions(stride=(2, 1), padding=1, groups=2), images(), np.array([2, 0])),
}


@pytest.mark.parametrize("case", CASES)
def test_feedback_equal_to_the_weights_is_backprop(case):
    layers, x, y = CASES[case]
    assert_equal_gradients(
        feedback_alignment.grads(layers, x, y, own_weights(layers)), backprop.grads(layers, x, y), atol=0
    )


def test_the_head_learns_by_backprop_and_the_rest_does_not():
    layers, x, y = CASES["perceptron"]
    fa = feedback_alignment.grads(layers, x, y, random_feedback(layers))
    bp = backprop.grads(layers, x, y)
    differ = {name for name in fa if not np.array_equal(fa[name], bp[name])}
    assert differ == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_the_first_layers_feedback_is_never_used():
    layers, x, y = CASES["convolutions"]
    feedback = random_feedback(layers)
    expected = feedback_alignment.grads(layers, x, y, feedback)
    feedback[0] = 7 * feedback[0]
    assert_equal_gradients(feedback_alignment.grads(layers, x, y, feedback), expected, atol=0)


def test_below_the_feedback_the_gradient_is_that_of_a_fixed_linear_read_out():
    # with e held fixed, feedback alignment through the head's B descends <e, h B^T>, h the head's input: by differences
    layers, x, y = CASES["convolutions"]
    feedback = {7: random_feedback(layers)[7]}
    e = output_error(forward(layers, x)[-1], y)
    fa = feedback_alignment.grads(layers, x, y, feedback)

    def read_out():
        return (e * (forward(layers[:7], x)[-1] @ feedback[7].T)).sum()

    for i in (0, 3):
        numeric = finite_differences(read_out, layers[i][1])
        np.testing.assert_allclose(fa[f"{i}.weight"], numeric, rtol=0, atol=1e-8)


def test_a_two_layer_linear_network_by_hand():
    W1, W2, B2 = np.eye(2), np.array([[1.0, 1.0]]), np.array([[5.0, -1.0]])
    layers = [("linear", W1, None), ("identity",), ("linear", W2, None)]
    # x = (1, 2), out = 3, mse to 1: e = 2 * 2 = 4, delta1 = 4 (5, -1) = (20, -4), G1 = delta1^T x
    fa = feedback_alignment.grads(layers, np.array([[1.0, 2.0]]), np.array([[1.0]]), {2: B2}, "mse")
    assert np.array_equal(fa["0.weight"], [[20, 40], [-4, -8]])
    assert np.array_equal(fa["2.weight"], [[4, 8]])


def test_sign_feedback_by_hand():
    W, M = np.array([[0.5, -2.0], [0.0, 3.0]]), np.array([[-1.0, 2.0], [3.0, -4.0]])
    assert np.array_equal(sign_feedback.usf(W, 0.1), [[0.1, -0.1], [0.0, 0.1]])
    assert np.array_equal(sign_feedback.brsf(W, M), [[1, -2], [0, 4]])
    assert np.array_equal(sign_feedback.frsf(-W, M), [[-1, 2], [0, -4]])


def test_scales_are_the_standard_deviations_of_the_draws():
    bound = 1 / np.sqrt(4 * 9)  # a 3x3 convolution of 4 maps to 8: fan in 36, fan out 72
    assert sign_feedback.default_scale(np.zeros((8, 4, 3, 3))) == pytest.approx(bound / np.sqrt(3))
    assert sign_feedback.xavier_scale(np.zeros((8, 4, 3, 3))) == pytest.approx(np.sqrt(2 / 108))


def test_sign_feedback_of_weights_of_one_magnitude_is_backprop():
    layers, x, y = CASES["perceptron"]
    layers = [("linear", 0.3 * np.sign(layer[1]), layer[2]) if layer[0] == "linear" else layer for layer in layers]
    scales = {0: 0.3, 2: 0.3, 4: 0.3}
    assert_equal_gradients(sign_feedback.usf_grads(layers, x, y, scales), backprop.grads(layers, x, y))


@pytest.mark.parametrize("case", CASES)
def test_random_magnitudes_equal_to_the_weights_are_backprop(case):
    layers, x, y = CASES[case]
    magnitudes = {i: -W for i, W in own_weights(layers).items()}  # only |M| counts
    assert_equal_gradients(
        sign_feedback.random_magnitude_grads(layers, x, y, magnitudes), backprop.grads(layers, x, y), atol=1e-12
    )
