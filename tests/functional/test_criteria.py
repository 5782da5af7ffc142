"""The losses: averaged over the batch, with targets as class indices."""

import math

import pytest
import torch
from torch.func import grad, vmap

from lit_fa.functional.criteria import CRITERIA, ROWS, bce, cross_entropy, mse, one_hot

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
TARGETS = torch.tensor([2, 0])


def test_cross_entropy_is_the_mean_negative_log_probability():
    rows = [[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]
    losses = [math.log(sum(map(math.exp, row))) - row[t] for row, t in zip(rows, [2, 0], strict=True)]
    assert cross_entropy(LOGITS, TARGETS).item() == pytest.approx(sum(losses) / 2, abs=1e-12)


def test_mse_is_the_mean_over_batch_and_classes():
    expected = (1.0 + 4.0 + 0.25 + 1.0 + 9.0 + 1.0) / 6
    assert mse(LOGITS, TARGETS).item() == pytest.approx(expected, abs=1e-12)


def test_bce_is_the_mean_over_batch_and_classes():
    def softplus(z: float) -> float:
        return math.log1p(math.exp(z))

    expected = (softplus(1) + softplus(-2) + softplus(-0.5) + softplus(0) + softplus(3) + softplus(-1)) / 6
    assert bce(LOGITS, TARGETS).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", CRITERIA)
def test_repeating_the_batch_changes_no_loss(name: str):
    criterion = CRITERIA[name]
    twice = criterion(LOGITS.repeat(2, 1), TARGETS.repeat(2))
    assert twice.item() == pytest.approx(criterion(LOGITS, TARGETS).item(), abs=1e-12)


@pytest.mark.parametrize("name", CRITERIA)
def test_vmap_equals_a_loop(name: str):
    logits, targets = torch.randn(4, 5, 3), torch.randint(3, (4, 5))
    loop = torch.stack([CRITERIA[name](x, y) for x, y in zip(logits, targets, strict=True)])
    assert torch.allclose(vmap(CRITERIA[name])(logits, targets), loop, atol=1e-6)


def test_one_hot_has_the_dtype_and_width_of_the_logits():
    hot = one_hot(TARGETS, LOGITS)
    assert hot.dtype == torch.float64
    assert hot.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("name", CRITERIA)
def test_rows_have_the_criterion_as_mean_and_its_derivative(name: str):
    criterion = CRITERIA[name]
    losses, errors = ROWS[criterion](LOGITS.expand(4, 2, 3), TARGETS.expand(4, 2))
    assert torch.allclose(losses.mean(1), criterion(LOGITS, TARGETS).expand(4), rtol=1e-14, atol=0)
    assert torch.allclose(errors / 2, grad(criterion)(LOGITS, TARGETS).expand(4, 2, 3), rtol=1e-13, atol=1e-16)
