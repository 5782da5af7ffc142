"""What is saved is all there is: a learner made from other seeds and then loaded learns the very same."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from lit_fa.layers import feedback_layers
from lit_fa.modules import Learner
from lit_fa.rules import Progress
from tests.cases import Case, cases
from tests.gradients import gradients, largest_difference


def draws_again(learner: Learner) -> None:
    """Make everything that is stored something else than its seed would draw."""
    with torch.no_grad():
        for name, tensor in learner.state_dict().items():
            if tensor.is_floating_point():  # a count of steps is no draw
                tensor += 0.01 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name)))


def one_step(learner: Learner, batch: tuple) -> None:
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, weight_decay=0.01)
    learner(batch).value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    learner.after_step(Progress(1))


@pytest.mark.parametrize("case", cases(suite="state_dict", thin=True))
def test_gradients_after_loading_are_bit_equal(case: Case):
    learner, batch = case.learner(), case.batch()
    one_step(learner, batch)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other = case.learner(seed=7)
    assert largest_difference(gradients(other, batch), gradients(learner, batch)) > 0
    other.load_state_dict(torch.load(file, weights_only=True))
    assert largest_difference(gradients(other, batch), gradients(learner, batch)) == 0
    one_step(learner, batch)
    one_step(other, batch)
    assert largest_difference(other.state_dict(), learner.state_dict()) == 0


@pytest.mark.parametrize("case", cases("mlp", "small_conv", suite="state_dict", thin=True))
def test_loading_restores_what_was_saved_and_does_not_redraw(case: Case):
    learner, batch = case.learner(), case.batch()
    draws_again(learner)
    other = case.learner()
    other.load_state_dict(learner.state_dict())
    assert largest_difference(gradients(other, batch), gradients(learner, batch)) == 0


@pytest.mark.parametrize("case", cases(suite="global_seed", thin=True))
def test_the_global_seed_decides_weights_and_never_feedback(case: Case):
    one, two = case.learner(seed=0), case.learner(seed=7)
    feedback = {name: b for name, b in one.state_dict().items() if "feedback" in name}
    assert all(torch.equal(b, two.state_dict()[name]) for name, b in feedback.items())


@pytest.mark.parametrize("case", cases("mlp", "small_conv", suite="state_dict", thin=True))
def test_a_copy_learns_on_its_own(case: Case):
    learner, batch = case.learner(), case.batch()
    before = gradients(learner, batch)
    other = copy.deepcopy(learner)
    assert largest_difference(gradients(other, batch), before) == 0
    one_step(other, batch)
    assert largest_difference(gradients(learner, batch), before) == 0
    assert largest_difference(gradients(other, batch), before) > 0


@pytest.mark.parametrize("case", cases("mlp", "small_conv", suite="state_dict", thin=True))
def test_a_learner_of_standard_layers_pickles(case: Case):
    learner, batch = case.learner(), case.batch()
    other = pickle.loads(pickle.dumps(learner))
    assert largest_difference(gradients(other, batch), gradients(learner, batch)) == 0


@pytest.mark.parametrize("case", cases("mlp", "small_conv", suite="plain_checkpoint", thin=True))
def test_a_plain_checkpoint_of_the_network_loads_with_nothing_missing_but_what_the_rule_added(case: Case):
    learner = case.learner()
    torch.manual_seed(9)
    plain = case.network().double().state_dict()
    found = learner.network.load_state_dict(plain, strict=False)
    assert not found.unexpected_keys
    assert all(name.endswith(("feedback.weight", "label.weight")) for name in found.missing_keys)
    assert all(torch.equal(learner.network.state_dict()[name], tensor) for name, tensor in plain.items())


def test_feedback_follows_its_layer_to_another_dtype():
    case = cases("mlp", where=lambda case: case.name.startswith("fa_xavier_uniform"))[0].values[0]
    learner = case.learner().float()
    layers = feedback_layers(learner.network).values()
    assert {layer.feedback.weight.dtype for layer in layers} == {torch.float32}
    assert isinstance(next(iter(layers)), nn.Linear)
