"""`measure(learner, batch)` of a callback needs no Trainer."""

import math

import pytest
import torch
from torch import nn

from lit_fa.callbacks import (
    AlignmentDominance,
    DeployedCost,
    FactorSpectrum,
    GradientAlignment,
    TrainingCost,
    WeightAlignment,
)
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment, SnapshotFeedback, SVDBackprop
from lit_fa.rules.learner import Learner


def learner(rule) -> Learner:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 4))
    return Learner(network, rule, torch.zeros(2, 5))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(9, 5, generator=generator), torch.arange(9) % 4


@pytest.mark.parametrize(
    ("callback", "rule", "expected"),
    [
        (GradientAlignment(), Backprop(), {"align/gradient/0": 0.0, "align/delta/2": 0.0}),
        (WeightAlignment(), FeedbackAlignment(SnapshotFeedback()), {"align/weight/2": 0.0, "align/weight/4": 0.0}),
        (FactorSpectrum(), SVDBackprop(), {"rank/overall": 100.0, "factors/energy/0": 1.0}),
        (TrainingCost(), Backprop(), {"cost/parameters": 118, "cost/inference_macs": 5 * 7 + 7 * 6 + 6 * 4}),
        (DeployedCost("macs", 2, 1), Backprop(), {"deployed/dense_parameters": 118}),
    ],
)
def test_a_callback_measures_a_learner_on_a_batch(callback, rule, expected: dict[str, float]):
    values = callback.measure(learner(rule), batch())
    assert {key: values[key] for key in expected} == pytest.approx(expected, abs=1e-3)


def test_dominance_of_backprop_is_the_squared_norm_of_its_gradient():
    made = learner(Backprop())
    values = AlignmentDominance().measure(made, batch())
    made(batch()).value.backward()
    squared = sum(p.grad.double().square().sum().item() for p in made.parameters())
    assert values["dominance/q"] == pytest.approx(squared, rel=1e-5)


def test_links_of_direct_feedback_are_found_from_the_batch():
    values = WeightAlignment().measure(learner(DirectFeedbackAlignment()), batch())
    assert all(math.isfinite(value) for value in values.values())
    assert {"align/weight/2", "align/weight/4"} <= values.keys()
