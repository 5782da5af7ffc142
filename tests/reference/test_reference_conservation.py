"""The laws hold to rounding where they are theorems, and fail where they are not."""

import numpy as np
import pytest

from tests.reference import conservation
from tests.reference.samples import convolutions, draw, own_weights, perceptron, random_feedback

BATCHES = [(draw(10 + t, 6, 5), np.array([0, 2, 1, 1, 0, 2])) for t in range(20)]
IMAGES = [(draw(30 + t, 2, 2, 10, 11), np.array([2, 0])) for t in range(3)]


def residual_and_drift(law, layers, feedback, batches, lr=0.05):
    """Largest |measured - predicted| and largest |measured - start| over neurons, layers and steps."""
    both = conservation.measured_and_predicted(law, layers, feedback, batches, lr).values()
    residual = max(np.abs(measured - predicted).max() for measured, predicted in both)
    return residual, max(np.abs(measured - measured[0]).max() for measured, _ in both)


@pytest.mark.parametrize("law", ["fa", "bp", "kp"])
@pytest.mark.parametrize("activation", [("relu",), ("leaky_relu", 0.1), ("identity",)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_discrete_identity_is_exact_at_every_neuron(law, activation, bias):
    layers = perceptron(activation, bias=bias)
    feedback = {} if law == "bp" else random_feedback(layers)
    residual, drift = residual_and_drift(law, layers, feedback, BATCHES)
    assert residual < 1e-11  # potentials of order 10, twenty steps
    assert drift > 1e-3


@pytest.mark.parametrize("law", ["fa", "bp", "kp"])
def test_it_is_exact_at_every_channel_of_a_convolution_followed_by_pools(law):
    layers = [("relu",) if layer[0] in ("tanh", "leaky_relu") else layer for layer in convolutions(padding=1)]
    feedback = {} if law == "bp" else random_feedback(layers)
    residual, drift = residual_and_drift(law, layers, feedback, IMAGES, lr=0.01)
    assert residual < 1e-10
    assert drift > 1e-3


@pytest.mark.parametrize("activation", [("tanh",), ("gelu",)])
def test_it_fails_for_activations_that_are_not_homogeneous(activation):
    layers = perceptron(activation)
    assert residual_and_drift("fa", layers, random_feedback(layers), BATCHES)[0] > 1e-3


def test_the_feedback_potential_only_falls():
    layers = perceptron(("relu",))
    for measured, _ in conservation.measured_and_predicted(
        "fa", layers, random_feedback(layers), BATCHES, 0.05
    ).values():
        assert (np.diff(measured, axis=0) <= 1e-12).all()


def test_the_drift_halves_with_the_step_at_the_same_integrated_time():
    layers, (batch, *_) = perceptron(("identity",)), BATCHES
    drifts = [
        residual_and_drift("fa", layers, random_feedback(layers), [batch] * steps, 0.2 / steps)[1] for steps in (40, 80)
    ]
    assert drifts[0] / drifts[1] == pytest.approx(2, rel=0.05)


def test_with_feedback_equal_to_the_weights_all_along_the_two_laws_are_one():
    # Kolen-Pollack from B = W keeps B = W and is backprop
    layers = perceptron(("relu",))
    by_kp = conservation.measured_and_predicted("kp", layers, own_weights(layers), BATCHES, 0.05)
    by_bp = conservation.measured_and_predicted("bp", layers, {}, BATCHES, 0.05)
    for i in by_bp:
        np.testing.assert_allclose(by_kp[i][0], by_bp[i][0], rtol=0, atol=1e-12)


def test_potentials_by_hand():
    W_in, b_in = np.array([[1.0, 2.0], [0.0, 4.0]]), np.array([2.0, 0.0])
    W_out, B_out = np.array([[1.0, -1.0], [3.0, 0.5]]), np.array([[2.0, 2.0], [1.0, 4.0]])
    assert np.array_equal(conservation.potentials("fa", W_in, b_in, W_out, B_out), [5 - 2.5 - 2, 0 - 8])
    assert np.array_equal(conservation.potentials("bp", W_in, b_in, W_out), [5 - 2.5 - 2, 0.625 - 8])
    assert np.array_equal(conservation.potentials("kp", W_in, None, W_out, B_out), [2.5 - 2.5, 10 - 8])
