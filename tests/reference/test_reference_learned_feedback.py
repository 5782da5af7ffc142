"""Feedback that moves: Kolen-Pollack, weight mirrors, adaptive variants, snapshots; and how alignment is measured."""

import numpy as np
import pytest
import torch

from tests.reference import adaptive, alignment, kolen_pollack, snapshot, weight_mirror
from tests.reference.samples import draw, perceptron, random_feedback

W, B = draw(1, 3, 4), draw(2, 3, 4)


def norm(A):
    return np.linalg.norm(A.ravel())


def test_kolen_pollack_closes_the_gap_by_one_minus_decay_times_rate():
    layers = perceptron(("relu",))
    feedback = random_feedback(layers)
    batches = [(draw(10 + t, 4, 5), np.array([0, 2, 1, 1])) for t in range(5)]
    states = kolen_pollack.trajectory(layers, feedback, batches, lr=0.1, weight_decay=0.3)
    for t, (now, B_now) in enumerate(states):
        for i in feedback:
            gap = (1 - 0.1 * 0.3) ** t * (layers[i][1] - feedback[i])
            np.testing.assert_allclose(now[i][1] - B_now[i], gap, rtol=0, atol=1e-12)
    assert not np.allclose(states[-1][0][0][1], layers[0][1])


def test_one_kolen_pollack_step_by_hand():
    G = np.array([[1.0, -2.0]])
    ((_, _), (W1, B1)) = kolen_pollack.matrix_trajectory(np.array([[2.0, 4.0]]), np.array([[0.0, 10.0]]), [G], 0.1, 0.5)
    np.testing.assert_allclose(W1, [[1.8, 4.0]], atol=1e-15)  # .95 (2, 4) - .1 (1, -2)
    np.testing.assert_allclose(B1, [[-0.1, 9.7]], atol=1e-15)


def test_momentum_is_torchs():
    gradients = [draw(20 + t, 3, 4) for t in range(4)]
    states = kolen_pollack.matrix_trajectory(W, B, gradients, 0.1, 0.2, 0.9)
    for k, start in enumerate((W, B)):
        p = torch.from_numpy(start.copy()).requires_grad_()
        optimizer = torch.optim.SGD([p], lr=0.1, weight_decay=0.2, momentum=0.9)
        for t, G in enumerate(gradients, start=1):
            p.grad = torch.from_numpy(G)
            optimizer.step()
            np.testing.assert_allclose(states[t][k], p.detach().numpy(), rtol=0, atol=1e-13)


def test_a_linear_mirror_fed_plus_and_minus_each_axis_sees_twice_the_weights():
    noise = np.concatenate([np.eye(4), -np.eye(4)])  # mean 0, x^T x = 2 I
    bias = draw(3, 3)  # constant, so gone after centring
    np.testing.assert_allclose(weight_mirror.increment(W, bias, noise), 2 * W, atol=1e-14)
    np.testing.assert_allclose(weight_mirror.increment(W, bias, noise, batch="mean"), 2 * W / 8, atol=1e-14)
    np.testing.assert_allclose(weight_mirror.mirrored(B, W, bias, noise, 0.25), B + W / 2, atol=1e-14)


def test_a_rectified_mirror_sees_half_of_it():
    # relu(w) - relu(-w) = w: the pair of probes along an axis gives w instead of 2 w
    noise = np.concatenate([np.eye(4), -np.eye(4)])
    np.testing.assert_allclose(weight_mirror.increment(W, None, noise, "relu"), W, atol=1e-14)


def test_the_rescaled_mirror_keeps_its_norm_and_the_decaying_one_settles():
    noise = np.concatenate([np.eye(4), -np.eye(4)])
    rescaled = weight_mirror.mirrored_and_rescaled(B, W, None, noise, 0.1)
    assert norm(rescaled) == pytest.approx(norm(B), rel=1e-14)
    assert alignment.cosine(rescaled, B + 0.2 * W) == pytest.approx(1, rel=1e-14)
    settled = B
    for _ in range(200):
        settled = weight_mirror.mirrored_with_decay(settled, W, None, noise, 0.1, decay=0.2)
    np.testing.assert_allclose(settled, 0.1 * 2 * W / 0.2, atol=1e-12)


def test_the_three_adaptive_variants_by_hand():
    B, W = np.array([[1.0, 0.0]]), np.array([[3.0, -4.0]])
    assert np.array_equal(adaptive.increment(B, W, W + 2), [[3, 2]])
    np.testing.assert_allclose(adaptive.norm(W), [[5 / np.sqrt(2), -5 / np.sqrt(2)]], atol=1e-15)
    assert np.array_equal(adaptive.mixture(B, W, 0.25), [[1.5, -1]])


def test_snapshots_take_the_norms_of_the_present_weights():
    stored, W = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[0.0, 10.0], [1.0, 1.0]])
    assert np.array_equal(snapshot.rows_rescaled(stored, W), [[6, 8], [0, 0]])
    kernels, copy = draw(4, 3, 2, 3, 3), draw(5, 3, 2, 3, 3)
    rescaled = snapshot.rows_rescaled(copy, kernels)
    for o in range(3):
        assert norm(rescaled[o]) == pytest.approx(norm(kernels[o]))
        assert alignment.cosine(rescaled[o], copy[o]) == pytest.approx(1)
    assert norm(snapshot.matrix_rescaled(copy, kernels)) == pytest.approx(norm(kernels))
    assert alignment.cosine(snapshot.matrix_rescaled(copy, kernels), copy) == pytest.approx(1)


def test_angles_by_hand():
    a = {"same": np.array([1.0, 2.0]), "right": np.array([1.0, 0.0]), "against": np.array([[1.0, 1.0]])}
    b = {"same": np.array([2.0, 4.0]), "right": np.array([0.0, 3.0]), "against": np.array([[-1.0, -1.0]])}
    assert alignment.angles(a, b) == pytest.approx({"same": 0, "right": 90, "against": 180}, abs=1e-5)
    assert alignment.cosines(a, b) == pytest.approx({"same": 1, "right": 0, "against": -1})
    assert alignment.angle(np.array([1.0, 0.0]), np.array([1.0, np.sqrt(3)])) == pytest.approx(60)
