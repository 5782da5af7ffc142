"""What is measured on layers in factors: angles, spectrum, cost."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.callbacks import DeployedCost, FactorSpectrum, GradientAlignment, MeasurementError, Recorder, TrainingCost
from lit_fa.layers.factored import factored_layers
from lit_fa.modules import Classifier
from lit_fa.rules import (
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    ForwardForward,
    Pruning,
    SVDBackprop,
    SVDSpaceAlignment,
)
from tests.callbacks.training import CLASSES, IMAGE, conv_net, fit, mlp, norm_net, task
from tests.reference import alignment as literal
from tests.reference import factored


def logged(network, rule, callback, epochs=1, **options):
    recorder = Recorder()
    trainer, module = fit(network, rule, [callback, recorder], epochs=epochs, **options)
    return {k: [v for _, _, v in c] for k, c in recorder.curves.points.items()}, module, trainer


def first(network, rule, callback):
    return {k: c[0] for k, c in logged(network, rule, callback)[0].items() if k.startswith("align/")}


@pytest.mark.parametrize("network", [mlp, conv_net, norm_net])
def test_svd_training_by_backprop_is_at_zero_degrees_in_the_dense_weight(network):
    net = network()
    layers = [name for name, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    values = first(net, SVDBackprop(), GradientAlignment())
    ends = {"gradient": "inexact", "delta": "inexact", "effective": "overall"}
    assert values.keys() == {f"align/{kind}/{name}" for kind, end in ends.items() for name in [*layers, end]}
    assert max(values[f"align/gradient/{name}"] for name in layers) == pytest.approx(0.0, abs=1e-5)
    # a step on the factors bends the gradient, and never past a right angle
    assert all(0 < values[f"align/effective/{name}"] < 90 for name in layers)


def test_the_effective_angle_equals_literal_arithmetic():
    torch.manual_seed(3)
    plain = mlp([5]).double()
    values = first(mlp_like(plain), SVDSpaceAlignment("sequential"), GradientAlignment())
    module = Classifier(mlp_like(plain), SVDSpaceAlignment("sequential"), CLASSES, IMAGE)
    batch = [t[:20] for t in task()]
    module.learner(batch).value.backward()
    layer = module.network[1]
    u, s, v, gu, gs, gv = (
        t.detach().numpy() for t in (layer.U, layer.s, layer.V, layer.U.grad, layer.s.grad, layer.V.grad)
    )
    update = gu @ np.diag(s) @ v.T + u @ np.diag(gs) @ v.T + u @ np.diag(s) @ gv.T
    nn.functional.cross_entropy(plain(batch[0]), batch[1]).backward()
    expected = literal.angle(update, plain[1].weight.grad.numpy())
    assert values["align/effective/1"] == pytest.approx(expected, rel=1e-9)
    assert expected > 10


def mlp_like(plain: nn.Module) -> nn.Module:
    network = mlp([5]).double()
    network.load_state_dict(plain.state_dict())
    return network


def test_the_spectrum_is_that_of_the_factors_and_follows_pruning():
    rule = SVDSpaceAlignment(pruning=Pruning(0.8, every=1, after=0.0, floor=2, keep=["5"]))
    values, module, _ = logged(mlp(), rule, FactorSpectrum(), epochs=3)
    layers = factored_layers(module.network)
    assert [values[f"rank/{name}"][0] for name in layers] == [8, 6, 3]
    for name, layer in layers.items():
        u, s, v = (t.detach().numpy() for t in layer.factors)
        error = sum(np.sum((f.T @ f - np.eye(len(s))) ** 2) for f in (u, v))
        assert values[f"rank/{name}"][-1] == layer.rank == len(s)
        assert values[f"factors/orthogonality/{name}"][-1] == pytest.approx(error, abs=1e-12)
        assert values[f"factors/hoyer/{name}"][-1] == pytest.approx(np.abs(s).sum() / np.sqrt(len(s) * (s**2).sum()))
    assert layers["1"].rank < 8
    assert layers["5"].rank == 3
    over_time = zip(*(values[f"rank/{name}"] for name in layers), strict=True)
    assert values["rank/overall"] == pytest.approx([100 * sum(now) / 17 for now in over_time])
    u, s, v = (t.detach().numpy() for t in layers["1"].factors)
    assert factored.energy_rank(s, 0.999999) == len(s)


@pytest.mark.parametrize(
    ("rule", "macs"),
    [
        (Backprop(), 3 * (16 * 8 + 8 * 6 + 6 * 3) - 16 * 8),
        (FeedbackAlignment(), 3 * (16 * 8 + 8 * 6 + 6 * 3) - 16 * 8),
        (DirectFeedbackAlignment(), 2 * (16 * 8 + 8 * 6 + 6 * 3) + 3 * (8 + 6)),
    ],
)
def test_the_products_of_a_step_are_those_of_the_formula(rule, macs):
    values, _, _ = logged(mlp(), rule, TrainingCost())
    assert values["cost/step_macs"] == [macs] * 2
    assert values["cost/inference_macs"] == [16 * 8 + 8 * 6 + 6 * 3] * 2


def test_a_factored_step_costs_its_formula_and_less_once_ranks_are_gone():
    rule = SVDSpaceAlignment(project=False, gamma=0.0, pruning=Pruning(0.5, every=1, after=0.0, floor=2, keep=["5"]))
    values, module, _ = logged(mlp(), rule, TrainingCost(), epochs=3)
    direct = 3 * (8 + 6)

    def formula(r):
        sides = [(8, 16, r[0]), (6, 8, r[1]), (3, 6, r[2])]
        return sum(k * (3 * a + 2 * b) for a, b, k in sides) + direct

    assert values["cost/step_macs"][0] == formula((8, 6, 3))
    assert values["cost/step_macs"][-1] == formula([layer.rank for layer in factored_layers(module.network).values()])
    assert values["cost/step_macs"][-1] < values["cost/step_macs"][0]
    assert values["cost/parameters"][-1] == sum(p.numel() for p in module.parameters())
    assert min(values["cost/step_bytes"][-1], values["cost/streamed_step_bytes"][-1]) > 0


def test_the_optimisers_bytes_are_two_moments_for_adam():
    adam = {"optimizer": lambda params: torch.optim.Adam(params, lr=1e-3)}
    values, module, _ = logged(mlp(), Backprop(), TrainingCost(), **adam)
    numbers = sum(p.numel() for p in module.parameters())
    tensors = len([*module.parameters()])
    assert values["cost/optimizer_bytes"] == [0, 8 * (2 * numbers + tensors)]  # and a count of steps a tensor
    assert values["cost/feedback_bytes"] == [0, 0]


def test_a_pruned_network_costs_less_where_it_is_run_than_its_dense_twin():
    rule = SVDSpaceAlignment(pruning=Pruning(0.4, every=1, after=0.0, floor=1, keep=[]))
    values, *_ = logged(conv_net(), rule, DeployedCost("macs", batch=4, rounds=2), epochs=2)
    assert values["deployed/macs"][-1] < values["deployed/macs"][0] <= values["deployed/dense_macs"][0]
    assert values["deployed/parameters"][-1] < values["deployed/dense_parameters"][-1]
    assert values["deployed/dense_macs"][0] == values["deployed/dense_macs"][-1]
    assert min(values["deployed/time_ratio"]) > 0
    assert min(values["deployed/ms"]) > 0


def test_what_predicts_by_more_than_a_forward_pass_has_no_deployed_form():
    values, *_ = logged(mlp([6]), ForwardForward(), DeployedCost())
    assert not [key for key in values if key.startswith("deployed/")]


@pytest.mark.parametrize("options", [{"batch": 1}, {"rounds": 0}])
def test_a_timing_of_nothing_is_refused(options: dict):
    with pytest.raises(MeasurementError, match="at least"):
        DeployedCost(**options)
