"""What the laws do not survive is named, and shown not to survive."""

import pytest
import torch
from torch import nn

from lit_fa.callbacks import ConservationPotential, MeasurementError
from lit_fa.functional.conservation import incoming, outgoing, potential
from lit_fa.rules import DirectFeedbackAlignment, FeedbackAlignment
from tests.callbacks.training import fit, mlp, norm_net

pytestmark = pytest.mark.filterwarnings("ignore:conservation")
BROKEN = 1e-5  # relative residual: a hundred thousand times what rounding leaves


def measured(network, rule=None, callback=None, **options):
    callback = callback or ConservationPotential()
    trainer, module = fit(network, rule or FeedbackAlignment(), [callback], **options)
    residual = trainer.callback_metrics.get("conserve/residual_relative", torch.tensor(0.0)).item()
    return callback, residual, module


class Sum(nn.Module):
    """x + inside(x), made by a plain addition."""

    def __init__(self, *inside):
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x):
        return x + self.inside(x)


class Functional(nn.Module):
    """An activation that is no module."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.second, self.activation = nn.Linear(16, 6), nn.Linear(6, 3), activation

    def forward(self, x):
        return self.second(self.activation(self.first(x.flatten(1))))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Sigmoid, nn.SiLU, nn.ELU])
def test_an_activation_that_is_not_homogeneous_breaks_the_identity_and_is_named(activation):
    callback, residual, _ = measured(mlp([8], activation))
    assert callback.broken == [f"2 ({activation.__name__}) before 3 is not positively 1-homogeneous"]
    assert residual > BROKEN


def test_a_functional_activation_is_seen():
    callback, residual, _ = measured(Functional(torch.tanh))
    assert callback.broken == ["the operation Tanh before second is not positively 1-homogeneous"]
    assert residual > BROKEN
    callback, residual, _ = measured(Functional(torch.relu))
    assert callback.broken == []
    assert residual < 1e-10


@pytest.mark.parametrize(
    ("sgd", "name"),
    [
        ({"momentum": 0.9}, "SGD has momentum 0.9"),
        ({"weight_decay": 0.01}, "SGD has weight_decay 0.01"),
        ({"momentum": 0.5, "nesterov": True}, "SGD has nesterov True"),
    ],
)
def test_momentum_and_weight_decay_break_the_identity_and_are_named(sgd, name):
    callback, residual, _ = measured(mlp(), sgd=sgd)
    assert name in callback.broken
    assert residual > BROKEN


def test_another_optimiser_is_named():
    callback, residual, _ = measured(mlp(), optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
    assert callback.broken == ["Adam is not plain SGD"]
    assert residual > BROKEN


def test_clipping_by_value_breaks_the_identity_and_is_named():
    callback, residual, _ = measured(mlp(), clip=0.01, clip_by="value")
    assert "clipping by value" in callback.broken[0]
    assert residual > BROKEN


def test_layers_that_learn_at_different_rates_are_named():
    callback, residual, _ = measured(mlp(), layer_lr={"3.*": 0.01})
    assert callback.broken == [
        "1 and the layer that reads it learn at different rates",
        "3 and the layer that reads it learn at different rates",
    ]
    assert residual > BROKEN


def test_low_precision_is_named():
    callback, _, _ = measured(mlp(), double=False, precision="bf16-mixed")
    assert callback.broken == ["precision bf16-mixed rounds more than the steps move: use 32-true or 64-true"]


def test_direct_feedback_below_the_last_hidden_layer_is_named_and_drifts():
    network = mlp()
    rule = DirectFeedbackAlignment()
    start = {name: t.clone() for name, t in network.state_dict().items()}
    callback, _, module = measured(network, rule, epochs=20)
    assert callback.broken == ["1: under direct feedback the law holds for the last hidden layer only"]
    assert [*callback.neurons] == ["3"]
    links = [link.weight.double() for link in rule.feedback.values()]
    product, now = links[1].t() @ links[0], module.network.state_dict()
    first, last = (
        potential(outgoing(s["3.weight"], product, 8), incoming(s["1.weight"], s["1.bias"])) for s in (start, now)
    )
    drifted = (callback.potential("3") - callback.initial["3"]).sum().abs() / callback.initial["3"].sum().abs()
    assert (last - first).sum().abs() / first.sum().abs() > 3 * drifted


def test_a_residual_branch_is_named_and_the_rest_measured():
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), Sum(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)), nn.Linear(8, 3)
    )
    callback, residual, _ = measured(network)
    assert [*callback.neurons] == ["3.inside.0"]
    assert residual < 1e-10
    assert callback.broken == [
        "the output of 2 is read by more than 3.inside.0 (a residual or parallel branch)",
        "3 (Sum) joins several branches before 4",
    ]


def test_groups_and_frozen_layers_are_named():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    network[5].bias.requires_grad_(False)
    network[2].weight.requires_grad_(False)
    callback, _, _ = measured(network)
    assert callback.broken[:2] == [
        "2 is a grouped or transposed convolution",
        "2 or 5 is frozen, in part or as a whole",
    ]
    assert callback.neurons == {}


def test_a_layer_that_runs_twice_is_named():
    shared = nn.Linear(8, 8)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), shared, nn.ReLU(), shared, nn.Linear(8, 3))
    callback, _, _ = measured(network)
    assert "3 runs more than once in a forward pass" in callback.broken


def test_a_target_in_the_place_of_the_error_has_no_law():
    callback, _, _ = measured(mlp(), DirectFeedbackAlignment(teacher="target"))
    assert callback.broken == ["DirectFeedbackAlignment sends back something else than the error: no law is known"]


def test_each_broken_law_is_a_warning():
    with pytest.warns(UserWarning, match=r"conservation: 2 \(Tanh\)"):
        measured(mlp([8], nn.Tanh))


def test_batch_norm_and_dropout_break_nothing():
    callback, residual, _ = measured(norm_net())
    assert callback.broken == []
    assert residual < 1e-10


def test_an_unknown_law_is_refused_in_one_line():
    with pytest.raises(MeasurementError, match="law is auto or one of feedback"):
        ConservationPotential(law="feedbak")
