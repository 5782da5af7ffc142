"""Metrics by name, and what a network with one output learns."""

from functools import partial

import lightning as L
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef, top_k_accuracy_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_fa.errors import UserError
from lit_fa.functional.criteria import mse
from lit_fa.modules import Classifier
from lit_fa.rules import Backprop, DirectFeedbackAlignment, Does, FeedbackAlignment


def network(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, outputs))


def loader(targets: torch.Tensor, inputs: torch.Tensor, size: int = 7) -> DataLoader:
    return DataLoader(TensorDataset(inputs, targets), batch_size=size)


def trainer(**options: object) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, **quiet, **options)


def measured(outputs: int, targets: torch.Tensor, **options: object) -> tuple[dict, torch.Tensor]:
    """What a test of an untrained network logs, and its outputs."""
    inputs = torch.randn(len(targets), 6)
    module = Classifier(network(outputs), Backprop(), outputs, (6,), **options)
    (found,) = trainer().test(module, loader(targets, inputs), verbose=False)
    return found, module(inputs).detach()


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_of_classes_are_those_of_scikit_learn_in_percent(classes: int):
    y = torch.randint(classes, (40,))
    found, logits = measured(classes, y, metrics=["f1", "matthews", "accuracy"])
    guess = logits.argmax(-1)
    average = "binary" if classes == 2 else "macro"
    assert found["test/f1"] == pytest.approx(100 * f1_score(y, guess, average=average), rel=1e-5)
    assert found["test/matthews"] == pytest.approx(100 * matthews_corrcoef(y, guess), rel=1e-5, abs=1e-5)
    assert found["test/accuracy"] == pytest.approx(100 * (guess == y).float().mean().item())


def test_top5_is_that_of_scikit_learn_in_percent():
    y = torch.randint(9, (60,))
    found, logits = measured(9, y, metrics=["top5"])
    assert found["test/top5"] == pytest.approx(100 * top_k_accuracy_score(y, logits, k=5, labels=range(9)), rel=1e-5)


def test_correlations_are_those_of_scipy_in_percent():
    y = 5 * torch.rand(40)
    found, outputs = measured(1, y, criterion="mse", metrics=["pearson", "spearman"])
    assert found["test/pearson"] == pytest.approx(100 * pearsonr(outputs[:, 0], y)[0], rel=1e-4)
    assert found["test/spearman"] == pytest.approx(100 * spearmanr(outputs[:, 0], y)[0], rel=1e-4)
    assert found["test/loss"] == pytest.approx(((outputs[:, 0] - y) ** 2).mean().item(), rel=1e-5)


def test_accuracy_is_measured_unless_told_otherwise_and_never_of_numbers():
    assert measured(3, torch.randint(3, (20,)))[0].keys() == {"test/loss", "test/accuracy"}
    assert measured(1, torch.rand(20), criterion="mse")[0].keys() == {"test/loss", "test/pearson"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rule", [Backprop, FeedbackAlignment, DirectFeedbackAlignment])
def test_every_rule_learns_a_number(rule: type, stream: bool):
    if stream and Does.STREAMS not in rule().does:
        pytest.skip("has no cuts")
    torch.manual_seed(1)
    x = torch.randn(64, 6)
    y = 2 + x[:, 0] - x[:, 1]
    adam = partial(torch.optim.Adam, lr=0.02)
    module = Classifier(network(1), rule(), 1, (6,), "mse", adam, stream=stream)
    run = trainer(max_epochs=40)
    run.fit(module, loader(y, x, 16), loader(y, x, 16))
    assert run.callback_metrics["val/pearson"] > 95
    assert "train/accuracy" not in run.callback_metrics
    assert run.callback_metrics["train/loss_epoch"] < 0.5


def test_mse_takes_numbers_as_they_are_and_classes_as_one_hot_rows():
    logits = torch.tensor([[1.0], [3.0]])
    assert mse(logits, torch.tensor([2.0, 3.0])) == 0.5
    assert mse(torch.eye(2), torch.tensor([0, 1])) == 0
    assert mse(torch.ones(2, 2), torch.tensor([[1.0, 1.0], [1.0, 3.0]])) == 1


@pytest.mark.parametrize(
    ("outputs", "options", "line"),
    [
        (1, {"criterion": "mse", "metrics": ["accuracy"]}, "accuracy does not fit: the target is a number, .* pearson"),
        (3, {"metrics": ["pearson"]}, "metric pearson does not fit: the target is one of 3 classes; take accuracy, f1"),
        (3, {"metrics": ["acuracy"]}, "unknown metric 'acuracy'; nearest: accuracy"),
        (5, {"metrics": ["top5"]}, "metric top5 is always right with 5 classes; take accuracy"),
        (1, {}, "one output is a number to predict, and cross_entropy is for classes: set criterion: mse"),
    ],
)
def test_metrics_and_targets_that_do_not_fit_are_refused_in_one_line(outputs: int, options: dict, line: str):
    with pytest.raises(UserError, match=line) as error:
        Classifier(network(outputs), None, outputs, (6,), **options)
    assert "\n" not in str(error.value)


def test_the_progress_bar_shows_the_first_metric():
    module = Classifier(network(3), None, 3, (6,), metrics=["matthews", "accuracy"])
    run = trainer(max_epochs=1)
    data = loader(torch.randint(3, (20,)), torch.randn(20, 6))
    run.fit(module, data, data)
    assert "val/matthews" in run.progress_bar_metrics
    assert "val/accuracy" not in run.progress_bar_metrics
