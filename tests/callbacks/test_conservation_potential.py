"""The exact discrete identity, the laws of every feedback, and how drift falls with the step."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.callbacks import ConservationPotential, Recorder
from lit_fa.functional.conservation import incoming
from lit_fa.rules import (
    AdaptiveFeedback,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    SignFeedback,
    WeightMirrorFeedback,
)
from tests.callbacks.training import conv_net, fit, flat_conv_net, mlp, norm_net, task
from tests.reference import conservation as literal

EXACT = 1e-10  # relative, in float64, after a few dozen steps
FEEDBACK = {
    "feedback": FeedbackAlignment,
    "sign": lambda: FeedbackAlignment("sign"),
    "kolen_pollack": lambda: FeedbackAlignment("kolen_pollack"),
    "redrawn": lambda: FeedbackAlignment(SignFeedback(variant="brsf")),
    "mirror": lambda: FeedbackAlignment(WeightMirrorFeedback()),
    "mixture": lambda: FeedbackAlignment(AdaptiveFeedback(reading="mixture", rate=0.1)),
    "norm": lambda: FeedbackAlignment(AdaptiveFeedback(reading="norm")),
    "snapshot": lambda: FeedbackAlignment("snapshot"),
    "detour": lambda: FeedbackAlignment(backend="detour"),
    "balance": Backprop,
}


def potential(network, rule, callback=None, **options):
    callback = callback or ConservationPotential()
    recorder = Recorder()
    _, module = fit(network, rule, [callback, recorder], **options)
    return callback, recorder.curves.last(), module


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Identity])
def test_the_identity_is_exact_in_every_hidden_layer(depth, activation):
    callback, values, _ = potential(mlp([6] * (depth - 1), activation), FeedbackAlignment(), lr=0.3)
    assert [*callback.neurons] == [str(1 + 2 * i) for i in range(depth - 1)]
    assert values["conserve/residual_relative"] < EXACT
    assert values["conserve/worst_neuron"] > 1e-5  # there was a drift to explain
    assert callback.broken == []


@pytest.mark.parametrize("criterion", ["mse", "bce"])
def test_the_identity_is_exact_for_any_loss(criterion):
    callback, values, _ = potential(mlp(bias=False), FeedbackAlignment(), criterion=criterion)
    assert values["conserve/residual_relative"] < EXACT
    assert len(callback.neurons) == 2


@pytest.mark.parametrize("network", [conv_net, flat_conv_net, norm_net])
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_every_feedback_obeys_its_law_through_convolution_pooling_and_batch_norm(feedback, network):
    callback, values, _ = potential(network(), FEEDBACK[feedback]())
    assert values["conserve/residual_relative"] < EXACT
    assert len(callback.neurons) == 2
    assert callback.broken == []


class ResidualBlock(nn.Module):
    """x + f(norm(x)), as in a Transformer."""

    def __init__(self):
        super().__init__()
        self.norm, self.inside = nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8))

    def forward(self, x):
        return x + self.inside(self.norm(x))


@pytest.mark.filterwarnings("ignore:conservation")
def test_behind_a_norm_the_law_holds_inside_a_residual_network():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), ResidualBlock(), nn.LayerNorm(8), nn.Linear(8, 3))
    callback, values, _ = potential(network, FeedbackAlignment())
    assert [*callback.neurons] == ["1", "2.inside.0", "3"]
    assert values["conserve/residual_relative"] < EXACT


class TwoReaders(nn.Module):
    """One layer, two normalisations behind it, each with its own read-out."""

    def __init__(self):
        super().__init__()
        self.first, self.norms = nn.Linear(16, 6), nn.ModuleList([nn.LayerNorm(6), nn.LayerNorm(6)])
        self.second = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])

    def forward(self, x):
        z = self.first(x.flatten(1))
        return sum(second(norm(z)) for second, norm in zip(self.second, self.norms, strict=True))


def test_two_normalisations_behind_one_layer_are_two_sets_of_neurons():
    callback, values, _ = potential(TwoReaders(), FeedbackAlignment())
    assert [*callback.neurons] == ["first", "first>second.1"]
    assert values["conserve/residual_relative"] < EXACT


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"clip": 0.05}, {"sgd": {"lr": 0.2}}])
def test_accumulation_and_clipping_by_norm_only_change_the_steps(options):
    options = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.2)} if "sgd" in options else options
    callback, values, _ = potential(mlp(), FeedbackAlignment(), **options)
    assert values["conserve/residual_relative"] < EXACT
    assert callback.broken == []


def test_a_schedule_moves_the_prediction_along():
    half = lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)  # noqa: E731
    _, values, _ = potential(mlp(), FeedbackAlignment(), scheduler=half, scheduler_interval="step")
    assert values["conserve/residual_relative"] < EXACT


@pytest.mark.parametrize(("rule", "law"), [("feedback", "fa"), ("balance", "bp"), ("kolen_pollack", "kp")])
def test_logged_potentials_equal_the_literal_ones(rule, law):
    callback, values, module = potential(flat_conv_net(), FEEDBACK[rule]())
    arrays = lambda layer: [t if t is None else t.detach().numpy() for t in (layer.weight, layer.bias)]  # noqa: E731
    for name, reader in (("0", "4"), ("4", "6")):
        entering, leaving = module.network.get_submodule(name), module.network.get_submodule(reader)
        back = None if law == "bp" else leaving.feedback.weight.detach().numpy()
        by_hand = literal.potentials(law, *arrays(entering), arrays(leaving)[0], back)
        np.testing.assert_allclose(callback.potential(name), by_hand, rtol=1e-12)
        assert values[f"conserve/{name}/potential"] == pytest.approx(by_hand.sum(), rel=1e-12)
        start = callback.initial[name].numpy()
        assert values[f"conserve/{name}/normalised"] == pytest.approx(by_hand.sum() / start.sum(), rel=1e-12)
        worst = np.abs(by_hand - start).max() / np.abs(start).mean()
        assert values[f"conserve/{name}/worst_neuron"] == pytest.approx(worst, rel=1e-9)


def drift_at(lr, steps, rule):
    torch.manual_seed(0)  # the same network at every learning rate
    _, values, _ = potential(mlp(), rule(), lr=lr, epochs=1, batches=[task()] * steps)
    return values["conserve/drift"]


@pytest.mark.parametrize("rule", ["feedback", "balance", "kolen_pollack", "redrawn"])
def test_drift_falls_tenfold_when_the_learning_rate_does(rule):
    large, small = (drift_at(lr, steps, FEEDBACK[rule]) for lr, steps in ((0.01, 40), (0.001, 400)))
    assert abs(large) > 1e-5
    assert large / small == pytest.approx(10, rel=0.05)


def test_a_smaller_step_leaves_less_drift_under_sign_feedback_too():
    large, small = (drift_at(lr, steps, FEEDBACK["sign"]) for lr, steps in ((0.05, 40), (0.005, 400)))
    assert abs(small) < abs(large) / 3  # weights that change sign add to what the steps explain


def test_feedback_alignment_loses_what_it_conserves_never_gains():
    callback, _, _ = potential(mlp(), FeedbackAlignment())
    assert all((callback.potential(name) <= start).all() for name, start in callback.initial.items())


def test_behind_batch_norm_the_norm_of_the_weights_is_conserved_on_its_own():
    changes = []
    for lr, steps in ((0.05, 40), (0.005, 400)):
        torch.manual_seed(0)
        network = norm_net()
        network[4].p = 0.0
        before = incoming(network[1].weight)
        _, _, module = potential(network, FeedbackAlignment(), lr=lr, epochs=1, batches=[task()] * steps)
        changes.append((incoming(module.network[1].weight) / before - 1).abs().max().item())
    assert changes[0] < 0.1
    assert changes[0] / changes[1] == pytest.approx(10, rel=0.3)  # BatchNorm's eps leaves a part that does not fall


def test_the_feedback_law_does_not_hold_under_kolen_pollack():
    _, values, _ = potential(mlp(), FEEDBACK["kolen_pollack"](), ConservationPotential(law="feedback"))
    assert values["conserve/residual_relative"] > 1e-4


def test_the_path_law_holds_under_any_rule():
    for rule in FEEDBACK.values():
        _, values, _ = potential(mlp(), rule(), ConservationPotential(law="path"))
        assert values["conserve/residual_relative"] < EXACT


@pytest.mark.parametrize("network", [mlp, flat_conv_net, norm_net])
def test_direct_feedback_obeys_the_law_in_the_last_hidden_layer(network):
    callback, values, _ = potential(network(), DirectFeedbackAlignment())
    assert len(callback.neurons) == 1
    assert values["conserve/residual_relative"] < EXACT


def test_direct_feedback_to_maps_is_read_channel_by_channel():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    for shape in ("dense", "per_channel"):
        callback, values, _ = potential(network, DirectFeedbackAlignment(shape=shape))
        assert callback.neurons["0"].units == 4
        assert values["conserve/residual_relative"] < EXACT


def test_the_first_value_is_that_of_the_untrained_network_and_neurons_are_summarised_at_the_end():
    recorder, callback = Recorder(), ConservationPotential()
    fit(mlp(), FeedbackAlignment(), [recorder, callback], epochs=3)
    curve = recorder.curves.points["conserve/1/normalised"]
    assert [(step, epoch) for step, epoch, _ in curve] == [(0, 0.0), (3, 1.0), (6, 2.0), (9, 3.0)]
    assert curve[0][2] == 1.0
    last, start = recorder.curves.last(), callback.initial["1"]
    relative = (callback.potential("1") - start) / start.abs().mean()
    assert last["conserve/1/neuron_drift_median"] == pytest.approx(np.median(relative.numpy()))
    assert last["conserve/1/neuron_drift_min"] == pytest.approx(relative.min().item())


def test_signs_are_the_shares_of_neurons_whose_potential_and_outgoing_part_are_not_negative():
    _, values, module = potential(
        mlp([12], bias=False), FeedbackAlignment(), ConservationPotential(signs=True), epochs=1
    )
    one, two = module.network[1], module.network[3]
    matrix = two.feedback.matrix(two.weight).detach().numpy()
    arrays = (one.weight.detach().numpy(), None, two.weight.detach().numpy(), matrix)
    C = literal.potentials("fa", *arrays)
    outgoing = C + 0.5 * (arrays[0] ** 2).sum(1)
    assert values["conserve/nonnegative"] == pytest.approx(100 * np.mean(C >= 0))
    assert values["conserve/aligned"] == pytest.approx(100 * np.mean(outgoing >= 0))
    assert "conserve/aligned" not in potential(mlp([12]), FeedbackAlignment(), epochs=1)[1]
