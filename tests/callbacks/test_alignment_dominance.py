"""q = <gradient, update>, and what follows from its values along training."""

import pytest
import torch

from lit_fa.callbacks import AlignmentDominance, Recorder
from lit_fa.callbacks.dominance import descent
from lit_fa.callbacks.gradient_alignment import true_gradients
from lit_fa.functional.dominance import fit_alpha, loss_bound
from lit_fa.modules import Classifier
from lit_fa.rules import Backprop, FeedbackAlignment
from tests.callbacks.training import CLASSES, IMAGE, fit, mlp, task


def test_under_backprop_q_is_the_squared_gradient():
    module = Classifier(mlp().double(), Backprop(), CLASSES, IMAGE)
    batch = task()
    true = true_gradients(module.learner, batch)
    loss, q = descent(module.learner, [batch])
    assert q == pytest.approx(sum(g.square().sum().item() for g in true.parameters.values()))
    assert loss == pytest.approx(true.loss)


@pytest.mark.parametrize("rule", [Backprop, FeedbackAlignment])
def test_all_batches_together_are_one_large_batch(rule):
    module = Classifier(mlp().double(), rule(), CLASSES, IMAGE)
    x, y = task(45)
    parts = list(zip(x.split(16), y.split(16), strict=True))
    assert descent(module.learner, parts) == pytest.approx(descent(module.learner, [(x, y)]), rel=1e-12)


def test_q_is_the_descent_of_a_small_step():
    torch.manual_seed(2)
    module = Classifier(mlp().double(), FeedbackAlignment(), CLASSES, IMAGE)
    batch = task()
    loss, q = descent(module.learner, [batch])
    module.learner(batch).value.backward()
    with torch.no_grad():
        for p in module.network.parameters():
            p -= 1e-6 * p.grad
        after = module.learner.criterion(module.network(batch[0]), batch[1]).item()
    assert (loss - after) / 1e-6 == pytest.approx(q, rel=1e-3)


@pytest.mark.parametrize("full", [False, True])
def test_alpha_and_bound_follow_from_the_logged_points(full):
    recorder = Recorder()
    fit(mlp(), FeedbackAlignment(), [AlignmentDominance(full=full), recorder], epochs=4, lr=0.05)
    curves, last = recorder.curves.points, recorder.curves.last()
    q, loss = (torch.tensor([v for _, _, v in curves[f"dominance/{key}"]]) for key in ("q", "loss"))
    time = 0.05 * torch.tensor([step for step, _, _ in curves["dominance/q"]])
    assert len(q) == 5
    for beta in (1, 2):
        alpha = fit_alpha(q, loss, beta)
        assert last[f"dominance/alpha_{beta}"] == pytest.approx(alpha)
        holds = (loss <= loss_bound(loss[0].item(), alpha, beta, time) * (1 + 1e-6)).all()
        assert last[f"dominance/bound_{beta}"] == float(holds)


def test_under_gradient_descent_with_small_steps_the_bounds_hold():
    recorder = Recorder()
    callbacks = [AlignmentDominance(every_n_steps=1, batch=48), recorder]
    x, y = task()
    options = {"batches": [(x[:20], y[:20])] * 60, "epochs": 1, "lr": 0.01}
    fit(mlp(), Backprop(), callbacks, **options)  # the validation data, on which is measured, are these 20 samples
    last = recorder.curves.last()
    assert last["dominance/alpha_1"] > 0
    assert last["dominance/bound_1"] == last["dominance/bound_2"] == 1.0
