"""Where feedback equals the weights, the rule is backprop; where it does not, `true_gradient` is."""

import pytest
import torch
from torch import nn

from lit_fa.layers import SnapshotFeedback, feedback_layers, true_gradient
from lit_fa.modules import Learner
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment
from tests.cases import Case, cases
from tests.gradients import gradients, largest_difference, taken
from tests.small_networks import NETWORKS


def plain_gradients(case: Case, batch: tuple) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    learner = Learner(case.network().double(), Backprop(), torch.zeros(2, *case.shape, dtype=torch.float64))
    return gradients(learner, batch)


def without_feedback(grads: dict) -> dict:
    return {name: g for name, g in grads.items() if not name.endswith("feedback.weight")}


def is_snapshot(case: Case) -> bool:
    return isinstance(getattr(case.rule(), "source", None), SnapshotFeedback)


has_feedback = {"where": lambda case: isinstance(case.rule(), FeedbackAlignment)}


@pytest.mark.parametrize("backend", ["fused", "detour"])
@pytest.mark.parametrize("case", cases(where=is_snapshot))
def test_a_fresh_snapshot_is_backprop(case: Case, backend: str):
    learner, batch = case.learner(), case.batch()
    for layer in feedback_layers(learner.network).values():
        layer.backend = backend
    # rescaling a row by its own norm rounds once; the bare copy does not
    assert largest_difference(gradients(learner, batch), plain_gradients(case, batch)) < 1e-14


@pytest.mark.parametrize("case", cases(**has_feedback))
def test_true_gradient_is_backprop_and_ends_with_its_context(case: Case):
    learner, batch = case.learner(), case.batch()
    before = gradients(learner, batch)
    with true_gradient(learner.network):
        inside = without_feedback(gradients(learner, batch))
    assert largest_difference(inside, plain_gradients(case, batch)) < 1e-14
    assert largest_difference(gradients(learner, batch), before) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_kolen_pollack_with_the_weights_for_feedback_is_backprop(name: str):
    build, shape = NETWORKS[name]
    case = Case(name, lambda: FeedbackAlignment("kolen_pollack"), build, shape, None)
    learner, batch = case.learner(), case.batch()
    for layer in feedback_layers(learner.network).values():
        layer.feedback.weight.data.copy_(layer.weight)
    grads = gradients(learner, batch)
    assert largest_difference(without_feedback(grads), plain_gradients(case, batch)) < 1e-14
    for layer in feedback_layers(learner.network):  # the same increment, so that they stay equal
        assert torch.equal(grads[f"network.{layer}.feedback.weight"], grads[f"network.{layer}.weight"])


@pytest.mark.parametrize("backend", ["fused", "detour"])
def test_direct_feedback_through_the_read_out_itself_is_backprop(backend: str):
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 5))

    case = Case("two layers", lambda: DirectFeedbackAlignment(backend=backend), build, (12,), None)
    learner, batch = case.learner(), case.batch()
    learner.rule.feedback["1"].weight.copy_(learner.network[2].weight.detach())
    assert largest_difference(gradients(learner, batch), plain_gradients(case, batch)) < 1e-14


def test_a_snapshot_is_renewed_when_a_round_starts():
    case = Case("flfa", lambda: FeedbackAlignment(SnapshotFeedback("none")), *NETWORKS["mlp"], None)
    learner, batch = case.learner(), case.batch()
    with torch.no_grad():
        for p in learner.network.parameters():
            p.mul_(1.5)
    stale = gradients(learner, batch)
    buffers = dict(learner.named_buffers())
    for name, renewed in learner.renewed(dict(learner.named_parameters()), buffers, 1).items():
        buffers[name].copy_(renewed)
    with true_gradient(learner.network):
        truth = gradients(learner, batch)
    assert largest_difference(stale, truth) > 1e-3
    assert largest_difference(gradients(learner, batch), truth) < 1e-14
    assert taken(learner) == {}
