"""The optimiser moves the network's own tensors, and moves nothing else."""

import pytest
import torch

from lit_fa.layers import feedback_layers
from lit_fa.modules import Learner
from lit_fa.rules import Progress
from tests.cases import Case, cases
from tests.gradients import gradients, largest_difference


def trained(case: Case) -> bool:
    """The rule's feedback is a parameter."""
    return getattr(getattr(case.rule(), "source", None), "trained", False)


def follows(case: Case) -> bool:
    """The rule's feedback receives the increments of the weight."""
    return getattr(getattr(case.rule(), "source", None), "follows", False)


def step(learner: Learner, batch: tuple, **options: float) -> None:
    optimizer = torch.optim.SGD(learner.parameters(), lr=1.0, **options)
    learner(batch).value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("case", cases("mlp", "small_conv", where=lambda case: not trained(case), thin=True))
def test_neither_gradient_nor_decay_touches_the_feedback(case: Case):
    learner = case.learner()
    before = {name: b.clone() for name, b in learner.state_dict().items() if "feedback" in name}
    step(learner, case.batch(), weight_decay=0.1)
    assert not [name for name, _ in learner.named_parameters() if "feedback" in name]
    assert all(torch.equal(learner.state_dict()[name], b) for name, b in before.items())


@pytest.mark.parametrize("case", cases("mlp", "small_conv", where=follows))
def test_trained_feedback_takes_the_step_of_its_weight(case: Case):
    learner = case.learner()
    layers = feedback_layers(learner.network)
    gaps = {name: (layer.weight - layer.feedback.weight).detach() for name, layer in layers.items()}
    step(learner, case.batch())
    for name, layer in layers.items():
        # without decay the gap stays; (w - g) - (b - g) rounds
        assert torch.allclose(layer.weight - layer.feedback.weight, gaps[name], atol=1e-14)
    step(learner, case.batch(), weight_decay=0.5)
    for name, layer in layers.items():
        assert torch.allclose(layer.weight - layer.feedback.weight, gaps[name] / 2, atol=1e-14)


@pytest.mark.parametrize("case", cases("mlp", "small_conv", thin=True))
def test_the_optimiser_holds_the_tensors_that_the_next_forward_pass_reads(case: Case):
    learner, batch = case.learner(), case.batch()
    held = {id(p) for p in learner.parameters()}
    old = {name: p.detach().clone() for name, p in learner.named_parameters()}
    grads = gradients(learner, batch)
    step(learner, batch)
    assert {id(p) for p in learner.parameters()} == held
    new = dict(learner.named_parameters())
    assert largest_difference({n: new[n].detach() for n in grads}, {n: old[n] - g for n, g in grads.items()}) < 1e-15
    assert not torch.equal(learner(batch).logits, case.learner()(batch).logits)


@pytest.mark.parametrize("case", cases(suite="trains", thin=True))
def test_training_lowers_the_loss_on_one_batch(case: Case):
    learner, batch = case.learner(), case.batch(16)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.2)
    before = learner(batch).loss
    for number in range(100):
        optimizer.zero_grad()
        surrogate = learner(batch)
        if number >= 10 and surrogate.loss < 0.95 * before:
            return
        surrogate.value.backward()
        learner.edit_gradients(Progress(number))
        optimizer.step()
        learner.after_step(Progress(number + 1))
    assert learner(batch).loss < 0.95 * before
