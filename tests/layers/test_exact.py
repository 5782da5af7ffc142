"""Which layers get backpropagation's error by construction, under every rule."""

from functools import partial

import pytest
import torch
from torch import nn

from lit_fa.layers import exact_layers
from lit_fa.rules import (
    CCL,
    FLFA,
    PEPITA,
    AugLocal,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    FeedbackWeightMatching,
    ForwardForward,
    LearningRule,
    MonoForward,
    PredSim,
    SnapshotFeedback,
    SVDBackprop,
    SVDSpaceAlignment,
)
from lit_fa.rules.base import Surrogate


class Shortcut(nn.Module):
    def __init__(self, *inside):
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x):
        return x + self.inside(x)


class Doubled(LearningRule):
    """Says nothing of where it replaces the error."""

    def surrogate(self, network, batch, criterion):
        logits = network(batch[0])
        loss = criterion(2 * logits, batch[1])
        return Surrogate(loss, loss.detach(), logits.detach())


def mlp():
    return nn.Sequential(
        nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )


ALL = ["0", "2", "4", "6"]
EXACT = {
    "backprop": (Backprop, ALL),
    "svd_backprop": (SVDBackprop, ALL),
    "fa": (FeedbackAlignment, ["6"]),
    "detour": (partial(FeedbackAlignment, backend="detour"), ["6"]),
    "feedback_equal_to_weights": (partial(FeedbackAlignment, SnapshotFeedback(rescale="none")), ["6"]),
    "fa_in_one_layer": (partial(FeedbackAlignment, layers=["4"]), ["4", "6"]),
    "flfa": (partial(FLFA, layers=["2"]), ["2", "4", "6"]),
    "dfa": (DirectFeedbackAlignment, ["6"]),
    "dfa_behind_one_block": (partial(DirectFeedbackAlignment, blocks=["3"]), ["4", "6"]),
    "drtp": (partial(DirectFeedbackAlignment, teacher="target"), ["6"]),
    "fwm": (FeedbackWeightMatching, ["6"]),
    "predsim": (PredSim, ["6"]),
    "auglocal": (AugLocal, ["4", "6"]),
    "ccl": (CCL, ["6"]),
    "mono_forward": (MonoForward, ["4", "6"]),
    "pepita": (PEPITA, []),
    "forward_forward": (ForwardForward, []),
    "ssa_direct": (SVDSpaceAlignment, ["6"]),
    "ssa_sequential": (partial(SVDSpaceAlignment, route="sequential"), ["6"]),
    "undeclared": (Doubled, []),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_layer_is_exact_where_nothing_above_it_replaces_the_error(name):
    rule, expected = EXACT[name]
    rule, network, x = rule(), mlp(), torch.rand(4, 12)
    rule.install(network, x, nn.functional.cross_entropy)
    assert sorted(exact_layers(network, rule.cuts, x)) == expected


def test_a_shortcut_around_feedback_does_not_make_a_layer_exact():
    network = nn.Sequential(nn.Linear(12, 8), Shortcut(nn.Linear(8, 8)), nn.Linear(8, 3))
    rule, x = FeedbackAlignment(layers=["1.inside.0"]), torch.rand(4, 12)
    rule.install(network, x, nn.functional.cross_entropy)
    assert sorted(exact_layers(network, rule.cuts, x)) == ["1.inside.0", "2"]


def test_looking_changes_no_buffer_and_no_random_number():
    network = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    before, state = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    exact_layers(network, [], torch.rand(4, 12, generator=torch.Generator()))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
