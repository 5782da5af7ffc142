"""Angles between tensors."""

import math

import numpy as np
import pytest
import torch

from lit_fa.functional.alignment import angle, cosine, sample_angle
from tests.reference import alignment as literal


def test_angle_and_cosine_equal_the_literal_ones():
    a, b = torch.randn(4, 3, 2, dtype=torch.float64), torch.randn(4, 3, 2, dtype=torch.float64)
    assert cosine(a, b).item() == pytest.approx(literal.cosine(a.numpy(), b.numpy()), rel=1e-12)
    assert angle(a, b).item() == pytest.approx(literal.angle(a.numpy(), b.numpy()), rel=1e-12)


def test_an_angle_has_no_history():
    a, b = (torch.randn(5, 3, requires_grad=True) for _ in range(2))
    assert not any(measure(a, b).requires_grad for measure in (angle, cosine, sample_angle))


def test_equal_tensors_are_exactly_parallel_and_opposite_ones_exactly_not():
    a = torch.randn(1000)
    assert angle(a, a).item() == 0.0
    assert angle(a, -a).item() == pytest.approx(180.0, abs=1e-12)


def test_tiny_angles_keep_their_digits():
    a, b = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 1e-10], dtype=torch.float64)
    assert angle(a, b).item() == pytest.approx(math.degrees(1e-10), rel=1e-6)


def test_angle_ignores_scale_and_shape():
    a, b = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    assert angle(3 * a.view(2, 3), b).item() == pytest.approx(angle(a, b).item(), rel=1e-12)


def test_a_zero_tensor_has_no_angle():
    assert torch.isnan(angle(torch.zeros(3), torch.ones(3)))
    assert torch.isnan(cosine(torch.zeros(3), torch.ones(3)))


def test_sample_angle_is_the_mean_of_the_angles_of_the_samples():
    a, b = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    by_hand = np.mean([literal.angle(u, v) for u, v in zip(a.numpy(), b.numpy(), strict=True)])
    assert sample_angle(a, b).item() == pytest.approx(by_hand, rel=1e-12)


def test_sample_angle_leaves_out_samples_without_a_direction():
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert sample_angle(a, torch.tensor([[0.0, 1.0], [1.0, 0.0]])).item() == pytest.approx(90.0)
    assert torch.isnan(sample_angle(torch.zeros(2, 3), torch.ones(2, 3)))
