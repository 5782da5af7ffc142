"""How feedback is drawn, derived from the weight, and learned: against the literal references."""

import math

import numpy as np
import pytest
import torch

from lit_fa.functional import feedback as formula
from lit_fa.functional.feedback import INITS, draw, fans, mirror, mix, named_generator, sign_scale
from tests.reference import adaptive, sign_feedback, snapshot, weight_mirror

SHAPES = [(6, 4), (5, 3, 3, 2)]


def pair(shape: tuple, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64), torch.randn(shape, generator=g, dtype=torch.float64)


def test_the_same_seed_and_names_draw_the_same_whatever_the_global_state():
    torch.manual_seed(3)
    one = draw((4, 3), "normal", named_generator(0, "fc1", 7))
    state = torch.get_rng_state()
    two = draw((4, 3), "normal", named_generator(0, "fc1", 7))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_name_or_step_draws_another_matrix():
    names = [(0, "fc1"), (1, "fc1"), (0, "fc2"), (0, "fc1", 1)]
    assert len({tuple(draw((4, 3), "normal", named_generator(*n)).flatten().tolist()) for n in names}) == 4


@pytest.mark.parametrize("shape", [(300, 200), (64, 32, 3, 3)])
@pytest.mark.parametrize("init", [i for i in INITS if i != "orthogonal"])
def test_the_spread_of_a_draw_is_the_one_its_name_says(init: str, shape: tuple):
    fan_in, fan_out = fans(shape)
    expected = {
        "xavier": math.sqrt(2 / (fan_in + fan_out)),
        "kaiming": math.sqrt(2 / fan_in),
        "uniform": 1 / math.sqrt(3 * fan_in),
        "normal": 1 / math.sqrt(fan_in),
        "standard": 1.0,
        "signs": 1.0,
    }[init.split("_")[0]]
    # 18,000 numbers or more: the standard error of their deviation is below 0.6 %
    assert draw(shape, init, named_generator(0)).std().item() == pytest.approx(expected, rel=0.03)


def test_an_orthogonal_draw_has_orthonormal_rows_or_columns():
    matrix = draw((3, 8), "orthogonal", named_generator(0))
    assert torch.allclose(matrix @ matrix.t(), torch.eye(3), atol=1e-6)


def test_gain_is_a_factor():
    assert torch.equal(
        draw((3, 4), "normal", named_generator(0), gain=2.0), 2 * draw((3, 4), "normal", named_generator(0))
    )


def test_an_unknown_init_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="xavier_uniform"):
        draw((3, 4), "xavier", named_generator(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_sign_scales_are_the_deviations_of_the_draws(shape: tuple):
    weight = np.ones(shape)
    assert sign_scale(shape, "xavier") == pytest.approx(sign_feedback.xavier_scale(weight), rel=1e-15)
    assert sign_scale(shape, "fan_in") == pytest.approx(sign_feedback.default_scale(weight), rel=1e-15)
    assert sign_scale(shape, 0.3) == 0.3


@pytest.mark.parametrize("scale", ["big", 0.0, -1.0])
def test_a_sign_scale_that_is_no_positive_number_is_refused(scale: object):
    with pytest.raises(ValueError, match="positive number"):
        sign_scale((2, 2), scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_matrices_made_from_the_weight_equal_their_references(shape: tuple):
    stored, weight = pair(shape)
    b, w = stored.numpy(), weight.numpy()
    pairs = [
        (formula.norm_matched_sign(weight), adaptive.norm(w)),
        (formula.rescale_rows(stored, weight), snapshot.rows_rescaled(b, w)),
        (formula.rescale_matrix(stored, weight), snapshot.matrix_rescaled(b, w)),
        (mix(stored, weight, 0.3), adaptive.mixture(b, w, 0.3)),
    ]
    for ours, reference in pairs:
        np.testing.assert_allclose(ours.numpy(), reference, rtol=0, atol=1e-14)


def test_a_row_of_zeros_stays_zero_and_finite():
    stored, weight = pair((3, 4))
    stored[1] = 0
    rescaled = formula.rescale_rows(stored, weight)
    assert rescaled.isfinite().all()
    assert (rescaled[1] == 0).all()
    np.testing.assert_allclose(rescaled.numpy(), snapshot.rows_rescaled(stored.numpy(), weight.numpy()), atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_mirror_step_equals_its_reference(shape: tuple, activation: str, decay: float):
    stored, weight = pair(shape)
    noise = torch.randn(20, math.prod(shape[1:]), dtype=torch.float64)
    ours = mirror(stored, weight, noise, rate=0.05, activation=activation, decay=decay)
    flat = [t.flatten(1).numpy() for t in (stored, weight)]
    reference = weight_mirror.mirrored_with_decay(*flat, None, noise.numpy(), 0.05, decay, activation)
    np.testing.assert_allclose(ours.flatten(1).numpy(), reference, rtol=0, atol=1e-13)


def test_mirroring_turns_the_feedback_towards_the_weight():
    stored, weight = pair((6, 4))

    def cosine() -> float:
        return torch.nn.functional.cosine_similarity(stored.flatten(), weight.flatten(), dim=0).item()

    before = cosine()
    for step in range(20):
        noise = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        stored = mirror(stored, weight, noise, rate=0.01)
    assert cosine() > max(before, 0.95)
