"""Direct feedback: what happens above a block does not reach it, except through the error."""

import pytest
import torch

from lit_fa.rules import DirectFeedbackAlignment, FeedbackAlignment
from tests.cases import Case, cases
from tests.gradients import gradients, largest_difference


def of_its_own(case: Case) -> bool:
    """Every block has a stored matrix of its own, which ties it to the logits."""
    rule = case.rule()
    return isinstance(rule, DirectFeedbackAlignment) and rule.shape != "shared" and rule.storage == "kept"


direct = {"where": of_its_own}


def of_block(grads: dict, end: int) -> dict:
    """Gradients of the network's children up to the one that ends the block."""
    return {name: g for name, g in grads.items() if int(name.split(".")[1]) <= end}


@pytest.mark.parametrize("case", cases(**direct))
def test_redrawing_later_feedback_leaves_earlier_updates_unchanged(case: Case):
    learner, batch = case.learner(), case.batch()
    before = gradients(learner, batch)
    ends = [*learner.rule.feedback]
    for key in ends[1:]:
        learner.rule.feedback[key].weight.normal_(generator=torch.Generator().manual_seed(5))
    after = gradients(learner, batch)
    assert largest_difference(of_block(after, int(ends[0])), of_block(before, int(ends[0]))) == 0
    assert largest_difference(after, before) > 0


@pytest.mark.parametrize("case", cases(**direct))
def test_each_hidden_block_follows_its_own_feedback(case: Case):
    for number in range(len(case.learner().rule.feedback)):
        learner, batch = case.learner(), case.batch()
        before = gradients(learner, batch)
        [*learner.rule.feedback.values()][number].weight.mul_(2.0)
        after = gradients(learner, batch)
        ends = [-1, *map(int, learner.rule.feedback)]
        for name, g in after.items():
            mine = ends[number] < int(name.split(".")[1]) <= ends[number + 1]
            assert torch.equal(g, 2 * before[name] if mine else before[name])


@pytest.mark.parametrize("case", cases("mlp", "residual", **direct))
def test_gradients_of_an_evaluated_network_follow_its_own_batch(case: Case):
    """An adversary asks for gradients in eval mode: they must not come from the last training batch."""
    learner = case.learner()
    gradients(learner, case.batch())
    learner.eval()
    other = case.batch(n=3, seed=9)
    fresh = case.learner().eval()
    assert largest_difference(gradients(learner, other), gradients(fresh, other)) == 0
    flipped = (other[0], (other[1] + 1) % 5)
    assert largest_difference(gradients(learner, flipped), gradients(learner, other)) > 0


@pytest.mark.parametrize("case", cases(where=lambda case: isinstance(case.rule(), FeedbackAlignment)))
def test_feedback_alignment_changes_no_update_of_the_last_layer(case: Case):
    learner, batch = case.learner(), case.batch()
    last = [name for name, _ in learner.network.named_parameters() if not name.endswith("feedback.weight")][-2:]
    plain = next(c.values[0] for c in cases() if c.id == f"backprop-{case.name.rsplit('-', 1)[1]}")
    expected = gradients(plain.learner(), batch)
    grads = gradients(learner, batch)
    assert all(torch.equal(grads[f"network.{name}"], expected[f"network.{name}"]) for name in last)
