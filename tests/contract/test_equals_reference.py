"""Every rule against numpy that a student could have typed from the paper, in float64."""

import numpy as np
import pytest
import torch

from tests.cases import Case, cases
from tests.gradients import array, gradients, largest_difference
from tests.reference_adapters import backprop_reference


def moved(case: Case):
    """A learner after one step, so that weights, and what is copied or learned from them, no longer coincide."""
    learner = case.learner()
    with torch.no_grad():
        for name, p in (*learner.network.named_parameters(), *learner.rule.named_parameters()):
            if not name.endswith("feedback.weight"):
                p += 0.1 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(len(name)))
    return learner


@pytest.mark.parametrize("case", cases(suite="equals_reference"))
def test_gradients_equal_a_literal_reference(case: Case):
    learner, (x, y) = moved(case), case.batch()
    expected = case.reference(learner, array(x), array(y))
    # float64: nothing but the order of sums differs
    assert largest_difference(gradients(learner, (x, y)), expected) < case.tolerance
    surrogate = learner((x, y))
    assert not surrogate.loss.requires_grad  # a log or a metric that keeps it keeps no graph
    assert not surrogate.logits.requires_grad


@pytest.mark.parametrize("case", cases(suite="values"))
def test_values_are_those_of_the_plain_network(case: Case):
    learner, (x, y) = case.learner(), case.batch()
    torch.manual_seed(0)
    plain = case.network().double()
    surrogate = learner((x, y))
    assert torch.equal(surrogate.logits, plain(x))
    assert torch.equal(surrogate.loss, torch.nn.functional.cross_entropy(plain(x), y))


@pytest.mark.parametrize("case", cases("mlp", "small_conv", suite="differs"))
def test_the_reference_of_a_rule_is_not_that_of_backprop(case: Case):
    """A reference that fell back to the weights would agree with a rule that does nothing."""
    learner, (x, y) = case.learner(), case.batch()
    expected = case.reference(learner, array(x), array(y))
    plain = backprop_reference(learner, array(x), array(y))
    first = "network.0.U" if "network.0.U" in plain else "network.0.weight"
    assert np.abs(expected[first] - plain[first]).max() > 1e-3
