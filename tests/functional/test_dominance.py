"""Lower bounds on descent and the rates that follow."""

import math

import pytest
import torch

from lit_fa.functional.dominance import fit_alpha, fit_exponent, loss_bound

LOSS = torch.tensor([2.0, 1.0, 0.5, 0.25], dtype=torch.float64)


@pytest.mark.parametrize("beta", [1, 1.5, 2, 3])
def test_a_power_law_is_recovered(beta):
    q = 0.7 * LOSS**beta
    assert fit_alpha(q, LOSS, beta) == pytest.approx(0.7)
    assert fit_exponent(q, LOSS) == pytest.approx((beta, 0.7))


def test_alpha_is_that_of_the_worst_point():
    assert fit_alpha(torch.tensor([4.0, 0.1]), torch.tensor([2.0, 1.0]), 1) == pytest.approx(0.1)
    assert fit_alpha(torch.tensor([4.0, -0.1]), torch.tensor([2.0, 1.0]), 1) == pytest.approx(-0.1)


@pytest.mark.parametrize("beta", [1, 2, 3])
def test_the_bound_solves_its_differential_equation(beta):
    t = torch.linspace(0, 4, 4001)
    bound = loss_bound(2.0, 0.7, beta, t)
    slope = (bound[2:] - bound[:-2]) / (t[2:] - t[:-2]).double()
    assert bound[0] == 2.0
    torch.testing.assert_close(slope, -0.7 * bound[1:-1] ** beta, rtol=1e-3, atol=0)


def test_without_dominance_the_bound_ends():
    assert loss_bound(1.0, -1.0, 2, torch.tensor([0.5])).item() == pytest.approx(2.0)
    assert loss_bound(1.0, -1.0, 2, torch.tensor([1.5])).item() == math.inf


def test_no_exponent_without_two_points_of_descent():
    assert math.isnan(fit_exponent(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 2.0])).exponent)
    assert math.isnan(fit_exponent(torch.ones(3), torch.ones(3)).exponent)
