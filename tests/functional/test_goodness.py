"""Goodness, what a block minimises, and where wrong labels come from."""

import math

import pytest
import torch
from torch.func import grad, vmap

from lit_fa.functional.goodness import (
    contrast,
    contrast_rows,
    contrast_slopes,
    goodness,
    inverse_length,
    likely_labels,
    local_loss,
    normalise,
    overlay,
    peer_penalty,
    permuted_labels,
    sample_hash,
    squares,
    wrong_labels,
)

CLASSES = 10
STEP = torch.tensor(0)


def samples(n: int = 4000, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 4, generator=torch.Generator().manual_seed(seed))


def labels(n: int = 4000) -> torch.Tensor:
    return torch.arange(n) % CLASSES


@pytest.mark.parametrize(("kind", "length"), [("rms", math.sqrt(12)), ("l2", 1.0)])
def test_normalised_samples_have_one_length_whatever_theirs_was(kind: str, length: float):
    x = samples(5) * torch.tensor([0.1, 1.0, 3.0, 10.0, 100.0])[:, None, None]
    lengths = normalise(x.double(), kind).flatten(1).norm(dim=1)
    # l2 adds 1e-4 to a length of 0.35 and more
    assert torch.allclose(lengths, torch.full_like(lengths, length), rtol=1e-3 if kind == "l2" else 1e-6)
    assert torch.equal(normalise(x, "none"), x)


def test_a_silent_sample_stays_finite():
    assert normalise(torch.zeros(1, 3)).tolist() == normalise(torch.zeros(1, 3), "l2").tolist() == [[0.0] * 3]


def test_the_label_replaces_entries_and_leaves_the_input_alone():
    x, label = torch.ones(1, 2, 3), torch.tensor([[0.0, 5.0]])
    assert overlay(x, label, 2).tolist() == [[[1.0, 1.0, 0.0], [5.0, 1.0, 1.0]]]
    assert torch.equal(x, torch.ones(1, 2, 3))


def test_goodness_of_bfloat16_is_summed_in_float32():
    h = torch.ones(1, 1000, dtype=torch.bfloat16)
    assert goodness(h, "sum").item() == 1000.0
    assert goodness(h).dtype == torch.float32


@pytest.mark.parametrize("loss", ["threshold", "symba", "margin"])
def test_every_loss_falls_with_positive_and_rises_with_negative_goodness(loss: str):
    # inside the margin, where all three have a slope
    positive, negative = torch.tensor([2.1, 1.7]).requires_grad_(), torch.tensor([1.8, 2.3]).requires_grad_()
    up, down = torch.autograd.grad(contrast(positive, negative, loss, 2.0, 1.0), (positive, negative))
    assert (up < 0).all()
    assert (down > 0).all()


def test_symba_knows_no_threshold_and_keeps_the_pairs_apart():
    positive, negative = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 3.0])
    assert torch.equal(contrast(positive, negative, "symba", 0.0, 4.0), contrast(positive, negative, "symba", 9.0, 4.0))
    swapped = contrast(positive, negative.flip(0), "symba", 0.0, 4.0)
    assert swapped < contrast(positive, negative, "symba", 0.0, 4.0)


def test_losses_stay_exact_far_from_the_threshold():
    far = torch.tensor([25.0], dtype=torch.float64)
    expected = (math.log1p(math.exp(-25.0)) + math.log1p(math.exp(25.0))) / 2
    assert contrast(far, far, "threshold", 0.0, 1.0).item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("loss", ["threshold", "symba", "margin"])
def test_slopes_are_the_derivatives_of_the_contrast(loss: str):
    heights = [samples(50, seed)[:, 0, 0].double().abs().mul(3).requires_grad_() for seed in (1, 2)]
    expected = torch.autograd.grad(contrast(*heights, loss, 2.0, 1.5), heights)
    assert torch.allclose(contrast_slopes(*heights, loss, 2.0, 1.5), torch.cat(expected), rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", ["mean", "sum"])
def test_the_local_loss_has_the_value_and_the_gradient_of_contrast_and_goodness(kind: str):
    h = samples(20).double().requires_grad_()
    value = contrast(*goodness(h, kind).chunk(2), "threshold", 2.0, 1.5)
    ours = local_loss(h, squares(h.detach()), "threshold", 2.0, 1.5, kind)
    assert ours.item() == pytest.approx(value.item(), rel=1e-14)
    one, other = (torch.autograd.grad(3 * loss, h)[0] for loss in (ours, value))
    assert torch.allclose(one, other, rtol=0, atol=1e-14)


def test_the_local_gradient_of_bfloat16_is_bfloat16_of_a_float32_slope():
    h = samples(20).bfloat16().requires_grad_()
    grad = torch.autograd.grad(local_loss(h, squares(h.detach()), "symba", 2.0, 4.0), h)[0]
    wide = h.detach().float().requires_grad_()
    expected = torch.autograd.grad(contrast(*goodness(wide).chunk(2), "symba", 2.0, 4.0), wide)[0]
    assert grad.dtype == torch.bfloat16
    assert torch.allclose(grad.float(), expected, rtol=2**-8, atol=1e-9)  # eight bits


def test_squares_are_summed_in_float32_and_without_a_batch_apart():
    assert squares(torch.full((2, 3000), 1.0, dtype=torch.bfloat16)).tolist() == pytest.approx([3000.0] * 2, rel=1e-6)
    assert squares(samples(5)).shape == (5,)


def test_the_peer_penalty_is_zero_among_equals():
    assert peer_penalty(torch.ones(3, 4)).item() == 0.0
    assert peer_penalty(torch.tensor([[0.0, 2.0], [0.0, 4.0]])).item() == pytest.approx(2.25)


def test_a_samples_hash_is_a_fixed_function_of_its_values():
    """Of values beyond 2^31 too, whose remainder modulo the prime is taken in two steps."""
    x = torch.tensor([[0.0, 1.0, -1.0], [0.25, 1e12, -3e9], [7.0, -1e-3, 255.0]])
    prime, expected = 2**31 - 1, []

    def mixed(h: int) -> int:
        h %= 2**32
        h = ((h ^ (h // 2**15)) * 0x2C1B3C6D) % 2**32
        h = ((h ^ (h // 2**12)) * 0x297A2D39) % 2**32
        return h ^ (h // 2**15)

    for sample in x:
        values = [int(value) for value in (sample * 4096).tolist()]
        content = sum(value * mixed(place + 1) for place, value in enumerate(values)) % prime
        expected.append(mixed(content ^ mixed(5 + 3 * 0x9E3779B9 + 1)))
    assert sample_hash(x, 3, torch.tensor(5)).tolist() == expected


def test_a_samples_hash_does_not_depend_on_its_place_or_company():
    x, order = samples(100), torch.randperm(100, generator=torch.Generator().manual_seed(1))
    whole = sample_hash(x, 0, STEP)
    assert torch.equal(sample_hash(x[order], 0, STEP), whole[order])
    assert torch.equal(torch.cat([sample_hash(part, 0, STEP) for part in x.split(7)]), whole)
    assert torch.equal(vmap(lambda part: sample_hash(part, 0, STEP))(x.view(4, 25, 3, 4)).flatten(), whole)


@pytest.mark.parametrize(("seed", "step"), [(1, 0), (0, 1), (65535, 0), (-1, 10**6)])
def test_seed_and_step_draw_independent_labels(seed: int, step: int):
    x, y = samples(), labels()
    one = wrong_labels(y, sample_hash(x, 0, STEP), CLASSES)
    two = wrong_labels(y, sample_hash(x, seed, torch.tensor(step)), CLASSES)
    # 4000 draws among 9: equal in 1/9 of them, with a standard deviation of 0.005
    assert (one == two).double().mean().item() == pytest.approx(1 / 9, abs=0.025)


def test_wrong_labels_are_wrong_and_uniform():
    wrong = wrong_labels(labels(), sample_hash(samples(), 0, STEP), CLASSES)
    assert (wrong != labels()).all()
    offsets = torch.bincount((wrong - labels()) % CLASSES, minlength=CLASSES)[1:].double() / 4000
    assert (offsets - 1 / 9).abs().max() < 0.025  # five standard deviations


def test_samples_that_differ_in_one_pixel_draw_on_their_own():
    x = torch.zeros(4000, 20)
    x[:, 3] = torch.arange(4000) / 256  # what eight bits may differ by
    assert len(sample_hash(x, 0, STEP).unique()) == 4000
    offsets = torch.bincount(wrong_labels(labels(), sample_hash(x, 0, STEP), CLASSES), minlength=CLASSES) / 4000
    assert (offsets - 0.1).abs().max() < 0.025


def test_permuted_labels_are_those_of_the_batch_and_nobody_keeps_its_own():
    numbers = sample_hash(samples(50), 0, STEP)
    identities = permuted_labels(torch.arange(50), numbers)
    assert identities.sort().values.tolist() == [*range(50)]
    assert (identities != torch.arange(50)).all()
    y = labels(50)
    assert torch.equal(permuted_labels(y, numbers), y[identities])


def test_hard_negatives_follow_the_read_out_and_are_never_right():
    y, p = labels(), torch.tensor([0.4, 0.3, 0.2, 0.1, *[0.0] * 6])
    drawn = likely_labels(y, sample_hash(samples(), 0, STEP), p.log().expand(4000, -1))
    assert (drawn != y).all()
    among = drawn[y == 9]  # its own label has no share, so that the others keep theirs
    shares = torch.bincount(among, minlength=CLASSES)[:4] / len(among)
    assert (shares - p[:4]).abs().max() < 0.12  # 400 draws, five standard deviations


def test_the_largest_hash_still_draws_a_wrong_label():
    for right in range(CLASSES):
        drawn = likely_labels(torch.tensor([right]), torch.tensor([2**32 - 1]), torch.zeros(1, CLASSES))
        assert drawn.item() == (8 if right == 9 else 9)


@pytest.mark.parametrize("loss", ["threshold", "symba", "margin"])
def test_slopes_of_one_row_are_the_derivatives_of_that_rows_loss(loss: str):
    heights = [3 * torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    value = lambda *pair: contrast_rows(*pair, loss, 1.3, 0.7).sum()  # noqa: E731
    expected = torch.cat(grad(value, (0, 1))(*heights), 1)
    assert torch.allclose(contrast_slopes(*heights, loss, 1.3, 0.7, rows=1), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", ["rms", "l2", "none"])
def test_the_inverse_length_is_what_normalise_multiplies_by(kind: str):
    x = samples(5).flatten(1).double()
    inverse = inverse_length(x.norm(dim=1), x.shape[1], kind)
    scaled = x if inverse is None else x * inverse.unsqueeze(1)
    assert torch.allclose(scaled, normalise(x, kind), rtol=1e-13, atol=0)


def test_padding_takes_no_part_in_a_permutation():
    g = torch.Generator().manual_seed(0)
    targets, numbers = torch.randint(5, (3, 9), generator=g), torch.randint(4, (3, 9), generator=g)  # many ties
    counts = torch.tensor([[9], [4], [1]])
    wrong = permuted_labels(targets, numbers, counts)
    for row, n in enumerate(counts.flatten()):
        assert torch.equal(wrong[row, :n], permuted_labels(targets[row, :n], numbers[row, :n]))
