"""The SVD's formulas: exact reshapes, gradients, projections and counts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lit_fa.functional import svd_factors
from lit_fa.functional.svd_factors import Factors, Geometry
from tests.gradients import array
from tests.reference import factored as literal

SHAPES = [(7, 5), (5, 7), (4, 3, 3, 3), (3, 6, 5, 3), (6, 4, 1, 1), (2, 3, 1, 4)]
D = torch.float64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def orthonormal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(drawn(rows, columns)).Q


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_at_full_rank_compose_to_the_weight(shape):
    weight = drawn(*shape)
    factors = svd_factors.factorise(weight)
    assert len(factors.s) == svd_factors.full_rank(shape)
    assert (svd_factors.compose(factors, shape) - weight).abs().max() < 1e-13
    assert np.abs(literal.dense(*map(array, factors), shape) - array(weight)).max() < 1e-13


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("padding", [0, 1, (2, 1)])
@pytest.mark.parametrize(("kernel", "dilation"), [((3, 3), 1), ((5, 3), 2), ((1, 1), 1), ((1, 4), (1, 2))])
def test_two_separable_convolutions_are_the_dense_one(kernel, dilation, stride, padding):
    conv = torch.nn.Conv2d(3, 4, kernel, stride, padding, dilation).double()
    geometry = Geometry(conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    x = drawn(2, 3, 11, 12)
    assert (
        svd_factors.conv2d(x, svd_factors.factorise(conv.weight), conv.bias, geometry) - conv(x)
    ).abs().max() < 1e-13


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_the_factors_are_those_through_the_composed_weight(shape):
    factors = Factors(*(t.requires_grad_(True) for t in svd_factors.factorise(drawn(*shape), 2)))
    gradient = drawn(*shape, seed=1)
    (svd_factors.compose(factors, shape) * gradient).sum().backward()
    expected = literal.factor_gradients(array(gradient), *map(array, factors))
    for factor, literally in zip(factors, expected, strict=True):
        assert np.abs(array(factor.grad) - literally).max() < 1e-13


def test_the_way_back_of_a_factored_convolution_is_the_gradient_of_the_way_there():
    geometry = Geometry((3, 2), (2, 1), (1, 2), (1, 2))
    x, factors = drawn(2, 3, 9, 8).requires_grad_(True), svd_factors.factorise(drawn(4, 3, 3, 2), 3)
    out = svd_factors.conv2d(x, factors, None, geometry)
    error = drawn(*out.shape, seed=2)
    expected = torch.autograd.grad(out, x, error)[0]
    assert (svd_factors.conv2d_back(error, factors, geometry, x.shape[2:]) - expected).abs().max() < 1e-13


def test_a_tangent_step_leaves_orthonormal_columns_to_first_order():
    u, g = orthonormal(9, 4), drawn(9, 4, seed=1)
    p = svd_factors.tangent(u, g)
    assert np.abs(array(p) - literal.on_tangent(array(u), array(g))).max() < 1e-13
    drift = [svd_factors.orthogonality(u - lr * p).sqrt().item() for lr in (1e-2, 1e-3)]
    assert drift[0] / drift[1] == pytest.approx(100, rel=0.01)  # of second order in the step
    raw = [svd_factors.orthogonality(u - lr * g).sqrt().item() for lr in (1e-2, 1e-3)]
    assert raw[0] / raw[1] == pytest.approx(10, rel=0.05)  # without the projection of first


def test_projecting_the_orthogonality_gradient_would_lose_it():
    """Why it is added after the projection: it is normal to the manifold."""
    u = orthonormal(9, 4) + 1e-4 * drawn(9, 4, seed=3)
    normal = svd_factors.orthogonality_gradient(u)
    assert svd_factors.tangent(u, normal).norm() < 1e-3 * normal.norm()


@pytest.mark.parametrize("batched", [False, True])
def test_one_newton_schulz_step_after_a_training_step_is_orthonormal_to_1e_5(batched):
    u = orthonormal(60, 16)
    step = u - 1e-2 * svd_factors.tangent(u, drawn(60, 16, seed=1))
    made = svd_factors.newton_schulz(step.expand(2, -1, -1))[1] if batched else svd_factors.newton_schulz(step)
    before, after = svd_factors.orthogonality(step), svd_factors.orthogonality(made)
    assert after < 1e-5 < before


def test_newton_schulz_brings_back_what_a_wild_step_has_blown_up():
    u = 50 * drawn(20, 6)
    for _ in range(40):
        u = svd_factors.newton_schulz(u)
    assert svd_factors.orthogonality(u) < 1e-20


@pytest.mark.parametrize("retract", [svd_factors.newton_schulz, svd_factors.qr_retraction])
def test_retractions_agree_with_the_polar_and_the_qr_factor(retract):
    u = orthonormal(12, 5)
    assert (retract(u) - u).abs().max() < 1e-14  # what is orthonormal stays
    assert svd_factors.orthogonality(retract(u + 1e-3 * drawn(12, 5, seed=4))) < 1e-7


def test_the_orthogonality_gradient_is_that_of_the_formula():
    u = drawn(5, 3)
    assert np.abs(array(svd_factors.orthogonality_gradient(u)) - literal.orthogonality_gradient(array(u))).max() < 1e-6


def test_pruned_columns_add_nothing_to_any_penalty():
    u, s = orthonormal(6, 3), torch.tensor([2.0, 1.0, 0.5], dtype=D)
    zeros = torch.zeros(6, 1, dtype=D)
    wide = torch.cat([u, zeros], 1)
    assert svd_factors.orthogonality(wide) < 1e-28
    assert (svd_factors.orthogonality_gradient(wide)[:, 3] == 0).all()
    assert (svd_factors.newton_schulz(wide)[:, 3] == 0).all()
    assert svd_factors.hoyer(torch.cat([s, zeros[0]])) == svd_factors.hoyer(s)
    assert svd_factors.hoyer_gradient(torch.cat([s, zeros[0]]))[3] == 0


@pytest.mark.parametrize("values", [[3.0, 1.0, 0.2], [0.0, 2.0, 1.0]])
def test_the_hoyer_gradient_is_that_of_the_ratio_of_norms(values):
    s = torch.tensor(values, dtype=D, requires_grad=True)
    assert svd_factors.hoyer(s).item() == pytest.approx(np.abs(values).sum() / np.sqrt(np.square(values).sum()))
    svd_factors.hoyer(s).backward()
    assert (svd_factors.hoyer_gradient(s.detach()) - s.grad).abs().max() < 1e-14


def test_hoyer_of_zero_singular_values_is_zero_and_so_is_its_gradient():
    assert svd_factors.hoyer(torch.zeros(4)) == 0
    assert torch.equal(svd_factors.hoyer_gradient(torch.zeros(4)), torch.zeros(4))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.999, 1.0])
def test_the_energy_rank_is_the_smallest_that_holds_the_share(share):
    s = drawn(30).abs()
    assert svd_factors.energy_rank(s, share * s.square().sum()) == literal.energy_rank(s.tolist(), share)


@pytest.mark.parametrize("shape", SHAPES)
def test_below_the_parity_rank_and_only_there_factors_are_fewer_than_weights(shape):
    a, b = svd_factors.as_matrix(torch.zeros(shape)).shape
    rank, entries = svd_factors.parity_rank(shape), a * b
    assert rank * (a + b + 1) < entries <= (rank + 1) * (a + b + 1)


def test_the_effective_update_is_the_change_of_the_weight_to_first_order():
    shape = (4, 3, 3, 3)
    factors, change = svd_factors.factorise(drawn(*shape), 3), Factors(drawn(12, 3), drawn(3), drawn(9, 3))
    small = Factors(*(f + 1e-6 * c for f, c in zip(factors, change, strict=True)))
    moved = (svd_factors.compose(small, shape) - svd_factors.compose(factors, shape)) / 1e-6
    assert (moved - svd_factors.effective_update(factors, change, shape)).abs().max() < 1e-4


def test_linear_keeps_all_leading_dimensions():
    layer, x = torch.nn.Linear(6, 4).double(), drawn(2, 3, 6)
    assert (
        svd_factors.linear(x, svd_factors.factorise(layer.weight), layer.bias) - F.linear(x, layer.weight, layer.bias)
    ).abs().max() < 1e-14
