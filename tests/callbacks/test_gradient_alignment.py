"""The rule's update against backprop's, on one batch."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.callbacks import GradientAlignment, Recorder
from lit_fa.callbacks.gradient_alignment import rule_gradients, true_gradients
from lit_fa.modules import Classifier
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment, ForwardForward, SnapshotFeedback
from tests.callbacks.training import CLASSES, IMAGE, conv_net, fit, mlp, norm_net, task
from tests.reference import alignment as literal

RULES = {
    "backprop": Backprop,
    "fa": FeedbackAlignment,
    "detour": lambda: FeedbackAlignment(backend="detour"),
    "sign": lambda: FeedbackAlignment("sign"),
    "kolen_pollack": lambda: FeedbackAlignment("kolen_pollack"),
    "dfa": DirectFeedbackAlignment,
    "drtp": lambda: DirectFeedbackAlignment(teacher="target"),
}


def logged(network, rule, **options):
    recorder = Recorder()
    _, module = fit(network, rule, [GradientAlignment(**options), recorder], epochs=1)
    return {k: c[0][2] for k, c in recorder.curves.points.items() if k.startswith("align/")}, module


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("network", [mlp, conv_net, norm_net])
def test_every_layer_has_both_angles(network, rule):
    net = network()
    layers = [name for name, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    values, _ = logged(net, RULES[rule]())
    assert values.keys() == {f"align/{kind}/{name}" for kind in ("gradient", "delta") for name in [*layers, "inexact"]}
    assert all(0 <= value <= 180 for value in values.values())
    assert values[f"align/gradient/{layers[-1]}"] == pytest.approx(0.0, abs=1e-5)  # the read-out is exact in all rules


@pytest.mark.parametrize("rule", [Backprop, lambda: FeedbackAlignment(SnapshotFeedback(rescale="none"))])
@pytest.mark.parametrize("network", [mlp, conv_net, norm_net])
def test_backprop_and_feedback_equal_to_the_weights_are_at_zero_degrees(network, rule):
    values, _ = logged(network(), rule())
    assert max(values.values()) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("rule", ["fa", "detour", "sign", "dfa", "drtp"])
def test_the_mean_is_over_the_layers_below_the_read_out(rule):
    values, _ = logged(mlp(), RULES[rule]())
    for kind in ("gradient", "delta"):
        hidden = [values[f"align/{kind}/{name}"] for name in ("1", "3")]
        assert values[f"align/{kind}/inexact"] == pytest.approx(sum(hidden) / 2)


def test_a_layer_above_all_feedback_is_not_in_the_mean():
    values, _ = logged(mlp(), FeedbackAlignment(layers=["3"]))
    assert values["align/delta/inexact"] == values["align/delta/1"] > 10
    assert values["align/delta/3"] == pytest.approx(0.0, abs=1e-5)


def test_forward_forward_has_no_exact_layer():
    values, _ = logged(mlp(), ForwardForward())
    mine = [value for key, value in values.items() if key.startswith("align/gradient/") and "inexact" not in key]
    assert values["align/gradient/inexact"] == pytest.approx(sum(mine) / len(mine))


def test_random_feedback_is_not_parallel_below_the_read_out():
    values, _ = logged(mlp(), FeedbackAlignment())
    assert min(values[f"align/{kind}/{n}"] for kind in ("gradient", "delta") for n in ("1", "3")) > 10


def test_angles_equal_literal_arithmetic():
    torch.manual_seed(3)
    network, (x, y) = mlp([5], nn.Tanh), task(6)
    module = Classifier(network.double(), FeedbackAlignment(), CLASSES, IMAGE)
    rule, true = rule_gradients(module.learner, (x, y)), true_gradients(module.learner, (x, y))
    h = np.tanh(x.flatten(1).numpy() @ network[1].weight.detach().numpy().T + network[1].bias.detach().numpy())
    z = h @ network[3].weight.detach().numpy().T + network[3].bias.detach().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    error = (p - np.eye(CLASSES)[y.numpy()]) / 6
    for found, matrix in ((rule, network[3].feedback.weight), (true, network[3].weight)):
        delta = error @ matrix.detach().numpy() * (1 - h**2)
        np.testing.assert_allclose(found.deltas["1"], delta, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(found.weights["1"], delta.T @ x.flatten(1).numpy(), rtol=1e-9, atol=1e-14)
    assert rule.loss == true.loss == pytest.approx(-np.log(p[np.arange(6), y.numpy()]).mean())


def test_the_first_measurement_is_that_of_the_validation_data_and_the_untrained_network():
    torch.manual_seed(4)
    network = mlp()
    before = copy.deepcopy(network)
    values, _ = logged(network, FeedbackAlignment(), batch=20)
    module = Classifier(before.double(), FeedbackAlignment(), CLASSES, IMAGE)
    batch = [t[:20] for t in task()]
    a, b = rule_gradients(module.learner, batch).weights["1"], true_gradients(module.learner, batch).weights["1"]
    assert values["align/gradient/1"] == pytest.approx(literal.angle(a.numpy(), b.numpy()), rel=1e-9)


def test_an_activation_in_place_does_not_spoil_the_delta():
    torch.manual_seed(5)
    plain = mlp()
    in_place = copy.deepcopy(plain)
    in_place[2], in_place[4] = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
    assert logged(plain, FeedbackAlignment())[0] == pytest.approx(logged(in_place, FeedbackAlignment())[0])


def test_both_gradients_see_the_same_dropout():
    network = norm_net()
    module = Classifier(network.double(), Backprop(), CLASSES, IMAGE)
    batch = task(12)
    a, b = rule_gradients(module.learner, batch), true_gradients(module.learner, batch)
    assert all(torch.equal(a.parameters[name], b.parameters[name]) for name in a.parameters)


def test_every_n_steps_counts_optimiser_steps():
    recorder = Recorder()
    fit(mlp(), FeedbackAlignment(), [GradientAlignment(every_n_steps=2), recorder], epochs=2, accumulate=1)
    assert [step for step, _, _ in recorder.curves.points["align/delta/1"]] == [0, 2, 4, 6]
    recorder = Recorder()
    fit(mlp(), FeedbackAlignment(), [GradientAlignment(every_n_steps=2), recorder], epochs=4, accumulate=3)
    assert [step for step, _, _ in recorder.curves.points["align/delta/1"]] == [0, 2, 4]
