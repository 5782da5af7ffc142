"""Potentials of neurons and their exact steps, against literal loops."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.functional.conservation import (
    column_sums,
    drift,
    incoming,
    matrix_law,
    outgoing,
    path_step,
    potential,
    row_squares,
)
from tests.reference import conservation as literal

LITERAL = {"feedback": "fa", "balance": "bp", "kolen_pollack": "kp"}
SHAPES = {
    "linear": ((6, 5), (4, 6)),
    "conv": ((6, 2, 3, 3), (4, 6, 3, 3)),
    "flattened": ((6, 2, 3, 3), (4, 54)),
}


def tensors(kind):
    first, second = SHAPES[kind]
    shapes = [first, first[:1], second, second]
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("law", LITERAL)
def test_potential_equals_the_literal_one(law, kind):
    weight, bias, after, matrix = tensors(kind)
    read = {
        "feedback": outgoing(after, matrix, 6),
        "balance": outgoing(after, after, 6) / 2,
        "kolen_pollack": outgoing(matrix, matrix, 6) / 2,
    }
    arrays = [t.numpy() for t in (weight, bias, after, matrix)]
    by_hand = literal.potentials(LITERAL[law], *arrays)
    np.testing.assert_allclose(potential(read[law], incoming(weight, bias)), by_hand, rtol=1e-12)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("law", LITERAL)
def test_drift_equals_the_literal_one(law, kind):
    weight, bias, after, _ = tensors(kind)
    squares, columns = row_squares(weight) + row_squares(bias), column_sums(after.square(), 6)
    by_hand = literal.step_drift(LITERAL[law], 0.3, weight.numpy(), bias.numpy(), after.numpy())
    np.testing.assert_allclose(drift(law, 0.3, squares, columns), by_hand, rtol=1e-12)


def test_sign_feedback_measures_the_absolute_column_sums():
    after = torch.randn(4, 6)
    l1 = 0.5 * after.double().abs().sum(0)
    torch.testing.assert_close(outgoing(after, 0.5 * after.sign(), 6), l1)


def test_path_step_is_the_change_of_the_aligned_part_under_fixed_feedback():
    _, _, after, matrix = tensors("flattened")
    gradient = torch.randn_like(after)
    change = outgoing(after - 0.1 * gradient, matrix, 6) - outgoing(after, matrix, 6)
    torch.testing.assert_close(path_step(0.1, matrix, gradient, 6), change)


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="choose one of feedback, balance"):
        drift("feedbak", 0.1, torch.ones(2))


def test_everything_is_summed_in_float64():
    weight = torch.full((1, 10_000), 0.1)
    exact = 0.5 * 10_000 * float(weight[0, 0]) ** 2
    assert incoming(weight).item() == pytest.approx(exact, rel=1e-12)
    assert row_squares(weight, dtype=None).dtype == torch.float64


def trained(activation, lr, steps):
    """A two-layer network under feedback alignment by hand: (matrix law before, after, the feedback's potential)."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)  # noqa: E731
    x, y = draw(20, 5), draw(20, 3)
    w1, w2, matrix = draw(4, 5) / 2, draw(3, 4) / 2, draw(3, 4)
    before = matrix_law(w1, w2, matrix)
    for _ in range(steps):
        z = (x @ w1.t()).requires_grad_()
        h = activation(z)
        error = (h @ w2.t() - y).detach() / 20
        delta = torch.autograd.grad(h, z, error @ matrix)[0]
        w1, w2 = w1 - lr * delta.t() @ x, w2 - lr * error.t() @ h.detach()
    return before, matrix_law(w1, w2, matrix)


def test_linear_networks_conserve_the_whole_matrix():
    drifts = []
    for lr, steps in ((1e-2, 100), (1e-3, 1000)):
        before, after = trained(nn.Identity(), lr, steps)
        drifts.append((after - before).norm() / before.norm())
    assert drifts[0] < 0.02
    assert drifts[0] / drifts[1] == pytest.approx(10, rel=0.05)


def test_a_rectifier_conserves_the_diagonal_alone():
    before, after = trained(nn.ReLU(), 1e-3, 1000)
    change = (after - before).abs()
    assert change.diagonal().max() < 2e-2
    assert change.max() > 10 * change.diagonal().max()


def test_the_diagonal_of_the_matrix_law_is_twice_the_potential():
    w1, _, w2, matrix = tensors("linear")
    torch.testing.assert_close(
        matrix_law(w1, w2, matrix).diagonal(), 2 * potential(outgoing(w2, matrix, 6), incoming(w1))
    )


def test_potentials_of_trainable_weights_need_no_gradient():
    weight, matrix = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4, 6))
    found = (incoming(weight, nn.Parameter(torch.randn(4))), outgoing(weight, matrix, 6))
    assert not [tensor for tensor in found if tensor.requires_grad]
