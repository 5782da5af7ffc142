"""Which samples are alike, and what a map is compared by."""

import numpy as np
import pytest
import torch

from lit_fa.functional.similarity import map_features, similarity_matching, similarity_matrix
from tests.reference import local_losses as reference


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


SHAPES = [(6, 5), (6, 4, 3, 2), (6, 3, 3, 2), (6, 4, 1, 7)]


@pytest.mark.parametrize("shape", SHAPES)
def test_similarity_is_numpys_correlation_of_what_samples_are_compared_by(shape: tuple):
    x = draw(*shape)
    rows = x.numpy() if x.ndim == 2 else map_features(x).numpy()
    assert np.abs(similarity_matrix(x).numpy() - np.corrcoef(rows)).max() < 1e-14


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_of_matching_are_those_written_out(shape: tuple):
    x, target = draw(*shape).requires_grad_(), draw(6, 4, seed=1)
    loss = similarity_matching(x, target)
    assert loss.item() == pytest.approx(reference.matching(x.detach().numpy(), target.numpy()), rel=1e-13)
    gradient = torch.autograd.grad(loss, x)[0].numpy()
    assert np.abs(gradient - reference.matching_gradient(x.detach().numpy(), target.numpy())).max() < 1e-14


def test_similarity_ignores_scale_and_offset_of_a_row():
    x = draw(6, 5)
    scale, offset = torch.tensor([1.0, 2, 0.1, 30, 4, 5])[:, None], torch.arange(6.0)[:, None]
    assert torch.allclose(similarity_matrix(x * scale + offset), similarity_matrix(x), atol=1e-13)


def test_a_map_of_more_than_three_channels_is_compared_by_the_deviation_of_each():
    x = draw(2, 4, 3, 5)
    assert torch.allclose(map_features(x)[1, 2], x[1, 2].flatten().std())
    moved = x + draw(2, 4, 1, 1, seed=1)  # another mean in every channel
    assert torch.allclose(similarity_matrix(moved), similarity_matrix(x), atol=1e-13)


@pytest.mark.parametrize("shape", [(2, 3, 3, 5), (2, 4, 1, 5)])
def test_a_map_of_few_channels_or_of_height_one_is_compared_pixel_by_pixel(shape: tuple):
    x = draw(*shape)
    assert torch.equal(map_features(x), x.flatten(1))


def test_matching_is_zero_where_the_samples_are_arranged_alike_and_positive_elsewhere():
    x = draw(6, 5)
    assert similarity_matching(x, 3 * x + 1) < 1e-28
    assert similarity_matching(x, draw(6, 5, seed=1)) > 0.01


@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_row_is_like_no_other_and_receives_no_gradient(constant: float, dtype: torch.dtype):
    x = draw(4, 7, dtype=dtype)
    x[1] = constant
    x.requires_grad_()
    assert similarity_matrix(x)[1].abs().max() == 0
    gradient = torch.autograd.grad(similarity_matching(x, draw(4, 3, seed=1, dtype=dtype)), x)[0]
    assert gradient.isfinite().all()
    assert gradient[1].abs().max() == 0
    assert gradient[0].abs().max() > 0


def test_a_silent_channel_of_a_map_gives_a_finite_gradient():
    x = draw(4, 5, 3, 3)
    x[:, 2] = 0
    x[1] = 0
    x.requires_grad_()
    gradient = torch.autograd.grad(similarity_matching(x, draw(4, 3, seed=1)), x)[0]
    assert gradient.isfinite().all()
    assert gradient[:, 2].abs().max() == gradient[1].abs().max() == 0
    assert gradient[0, 0].abs().max() > 0


@pytest.mark.parametrize("autocast", [False, True])
def test_similarity_of_bfloat16_is_accumulated_in_float32(autocast: bool):
    x = draw(4, 1000).bfloat16()
    expected = similarity_matrix(x.double()).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = similarity_matrix(x)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)
