"""The solvers of feedback matching: against literal loops, and by what the theory says of them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lit_fa.functional import matching
from lit_fa.functional.alignment import cosine
from tests.gradients import array
from tests.reference import matching as literal

D = torch.float64
WIDTHS, CLASSES = (9, 8, 7, 11), 4


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def chain(widths: tuple[int, ...] = WIDTHS, classes: int = CLASSES) -> list[Tensor]:
    """W_2 to W_L of full rank, which no feedback matches."""
    sizes = [*widths, classes]
    return [drawn(o, i, seed=k) for k, (i, o) in enumerate(pairwise(sizes))]


def low_rank_chain() -> list[Tensor]:
    """W_2 to W_L made of feedback."""
    return matching.matched_weights([drawn(width, CLASSES, seed=k) for k, width in enumerate(WIDTHS)])


SOLVERS = {
    "seq_ls": (matching.seq_ls, literal.seq_ls),
    "bp_product": (matching.bp_product, literal.bp_product),
    "als": (lambda W: matching.als(W, sweeps=7), lambda W: literal.als(W, 7, True)),
    "als_free_head": (lambda W: matching.als(W, sweeps=7, head_fixed=False), lambda W: literal.als(W, 7, False)),
    "svd": (matching.svd_average, lambda W: literal.svd_average(W, False)),
    "svd_rows": (lambda W: matching.svd_average(W, normalise=True), lambda W: literal.svd_average(W, True)),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_is_its_literal_loop(solver: str):
    ours, reference = SOLVERS[solver]
    weights = chain()
    found, expected = ours(weights), reference([*map(array, weights)])
    assert [F.shape for F in found] == [(width, CLASSES) for width in WIDTHS]
    # a Gram matrix is inverted there, a pseudo-inverse taken here
    assert max(np.abs(array(F) - G).max() for F, G in zip(found, expected, strict=True)) < 1e-10


def test_matched_weights_and_residuals_are_those_of_the_loops():
    weights, feedback = chain(), matching.svd_average(chain())
    made = matching.matched_weights(feedback)
    expected = literal.matched([*map(array, weights)], [*map(array, feedback)])
    assert max(np.abs(array(M) - N).max() for M, N in zip(made, expected, strict=True)) < 1e-13
    residual = literal.relative_residual([*map(array, weights)], expected)
    assert matching.relative_residual(weights, made) == pytest.approx(residual, rel=1e-12)


@pytest.mark.parametrize("solver", ["seq_ls", "als"])
def test_weights_made_of_feedback_are_matched_without_residual(solver: str):
    weights = low_rank_chain()
    feedback = getattr(matching, solver)(weights)
    assert matching.relative_residual(weights, matching.matched_weights(feedback)) < 1e-13


def test_more_classes_than_units_leave_no_residual():
    weights = chain((5, 6, 5), 8)
    assert matching.relative_residual(weights[1:], matching.matched_weights(matching.seq_ls(weights))[1:]) < 1e-13


@pytest.mark.parametrize("head_fixed", [True, False])
def test_the_residual_of_als_never_rises_and_starts_at_that_of_seq_ls(head_fixed: bool):
    weights = chain()

    def residual(feedback: list[Tensor]) -> float:
        return matching.relative_residual(weights, matching.matched_weights(feedback))

    start = residual(matching.seq_ls(weights))
    curve = [residual(matching.als(weights, sweeps=n, head_fixed=head_fixed)) for n in range(12)]
    assert curve[0] == start
    assert all(later <= earlier + 1e-14 for earlier, later in pairwise(curve))
    assert curve[-1] < 0.99 * start


def test_a_read_out_whose_rows_sum_to_zero_is_solved_by_the_smallest_feedback():
    """As after a probe that started from zero: the Gram matrix is singular, and a ridge would decide the result."""
    weights = chain()
    weights[-1] = weights[-1] - weights[-1].mean(0)
    found = matching.seq_ls(weights)
    expected = np.linalg.lstsq(array(found[-1]), array(weights[-2]), rcond=1e-10)[0].T
    assert np.abs(array(found[-2]) - expected).max() < 1e-10
    assert matching.product_rank(found[-1], found[-2], 1e-12) == CLASSES - 1


def test_single_precision_does_not_take_rounding_for_a_direction():
    weights = [W.float() for W in chain()]
    weights[-1] = weights[-1] - weights[-1].mean(0)  # sums to 1e-8, not to zero
    exact = chain()
    exact[-1] = exact[-1] - exact[-1].mean(0)
    for F, G in zip(matching.seq_ls(weights), matching.seq_ls(exact), strict=True):
        assert (F - G).norm() < 1e-4 * G.norm()


def test_a_chain_that_breaks_falls_into_pieces():
    weights = chain()
    start = [drawn(width, CLASSES, seed=20 + k) for k, width in enumerate(WIDTHS)]
    broken = [weights[0], None, *weights[2:]]
    for solve in (matching.seq_ls, matching.bp_product):
        found = solve(broken, start)
        assert torch.equal(found[1], start[1])  # the top of the piece without read-out
        assert all(torch.equal(F, G) for F, G in zip(found[2:], solve(weights)[2:], strict=True))
    assert torch.allclose(matching.seq_ls(broken, start)[0], weights[0].t() @ torch.linalg.pinv(start[1]).t())
    found = matching.als(broken, start)
    lowest = matching.relative_residual(weights[:1], matching.matched_weights(found)[:1])
    beyond = torch.linalg.svdvals(weights[0])
    # free at both ends, it is the best approximation of rank c
    assert lowest == pytest.approx((beyond[CLASSES:].norm() / beyond.norm()).item(), rel=1e-6)
    assert torch.equal(matching.seq_ls([None, None, None, weights[3]], start)[0], start[0])
    with pytest.raises(ValueError, match="must be drawn"):
        matching.seq_ls(broken)


def test_a_chain_without_the_heads_equation_takes_the_classes_and_the_topmost_matrix_from_what_is_drawn():
    weights, start = chain(), [drawn(width, CLASSES, seed=20 + k) for k, width in enumerate(WIDTHS)]
    headless = [*weights[:-1], None]
    for mine, whole in zip(matching.svd_average(headless, start), matching.svd_average(weights), strict=True):
        assert torch.equal(mine, whole)  # which does not use the head
    for solve, literally in ((matching.seq_ls, literal.seq_ls), (matching.bp_product, literal.bp_product)):
        found = solve(headless, start)
        assert torch.equal(found[-1], start[-1])
        expected = literally([*map(array, weights[:-1]), array(start[-1].t())])  # of a head that is F^T
        assert max(np.abs(array(F) - G).max() for F, G in zip(found, expected, strict=True)) < 1e-10


@pytest.mark.parametrize("keep_norm", [True, False])
def test_a_blend_goes_from_the_weight_to_its_match(keep_norm: bool):
    weight, made = drawn(5, 4), 3 * drawn(5, 4, seed=1)
    target = made * (weight.norm() / made.norm()) if keep_norm else made
    assert torch.equal(matching.blend(weight, made, 0.0, keep_norm=keep_norm), weight)
    assert torch.allclose(matching.blend(weight, made, 1.0, keep_norm=keep_norm), target)
    assert torch.allclose(matching.blend(weight, made, 0.25, keep_norm=keep_norm), 0.75 * weight + 0.25 * target)


def test_rescaled_feedback_sends_the_wanted_error_and_no_cosine_moves():
    feedback, error = matching.seq_ls(chain()), drawn(6, CLASSES, seed=9)
    scaled = [matching.rescaled(F, error, 0.3 * (k + 1)) for k, F in enumerate(feedback)]
    for k, F in enumerate(scaled):
        assert literal.sent(array(F), array(error)) == pytest.approx(0.3 * (k + 1))
    pairs = zip(matching.matched_weights(feedback)[:-1], matching.matched_weights(scaled)[:-1], strict=True)
    assert all(cosine(one, other).item() == pytest.approx(1, abs=1e-14) for one, other in pairs)
    assert torch.equal(matching.rescaled(feedback[0], torch.zeros(6, CLASSES, dtype=D), 1.0), feedback[0])


def test_the_rank_of_a_product_is_that_of_the_dense_matrix():
    above, below = drawn(9, CLASSES), drawn(8, CLASSES, seed=1)
    above[:, 0] = above[:, 1]
    dense = torch.linalg.matrix_rank(above @ below.t()).item()
    assert matching.product_rank(above, below, 1e-14) == dense == CLASSES - 1


def test_the_bp_product_sends_backprops_own_error_through_a_linear_network():
    network = nn.Sequential(*[nn.Linear(W.shape[1], len(W)) for W in chain()]).double()
    h, targets = drawn(6, WIDTHS[0], seed=3).requires_grad_(True), torch.tensor([0, 1, 2, 3, 0, 1])
    logits = network(h)
    error, delta = torch.autograd.grad(nn.functional.cross_entropy(logits, targets), [logits, h])
    feedback = matching.bp_product([layer.weight for layer in network])
    assert torch.allclose(error @ feedback[0].t(), delta, atol=1e-15)


def test_what_is_made_of_trainable_weights_needs_no_gradient():
    weights = [nn.Parameter(weight) for weight in chain()]
    solvers = (matching.seq_ls, matching.bp_product, matching.als, matching.svd_average)
    made = [F for solve in solvers for F in solve(weights)]
    made.append(matching.blend(weights[0], drawn(*weights[0].shape), 0.5))
    above = drawn(CLASSES, WIDTHS[1])
    made.append(matching.factor_below(weights[0], nn.Parameter(above), drawn(CLASSES, WIDTHS[0])))
    assert not [tensor for tensor in made if tensor.requires_grad]
