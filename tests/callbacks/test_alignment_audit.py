"""What an angle does not say: the update's length, the noise of its reference, and whether a layer lowers the loss."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.callbacks import AlignmentAudit, MeasurementError, Recorder
from lit_fa.callbacks.alignment_audit import ceiling, log_scale
from lit_fa.callbacks.gradient_alignment import rule_gradients, true_gradients
from lit_fa.modules import Classifier
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment, ForwardForward
from tests.callbacks.training import CLASSES, IMAGE, conv_net, fit, mlp, task


def learner(network, rule):
    torch.manual_seed(3)
    return Classifier(network.double(), rule, CLASSES, IMAGE).learner


@pytest.mark.parametrize("network", [mlp, conv_net])
def test_backprop_has_its_own_length_and_its_own_use(network):
    values = AlignmentAudit().measure(learner(network(), Backprop()), task(48))
    scales, uses = (
        [v for k, v in values.items() if k.startswith(f"audit/{kind}/")] for kind in ("log_scale", "utility")
    )
    assert scales == pytest.approx([0.0] * len(scales), abs=1e-12)
    assert {use for use in uses if not math.isnan(use)} == {1.0}
    assert not any(key.endswith("/inexact") for key in values)


@pytest.mark.parametrize("rule", [FeedbackAlignment, DirectFeedbackAlignment])
def test_the_numbers_equal_literal_arithmetic(rule):
    module, (x, y) = learner(mlp(), rule()), task(48)
    values = AlignmentAudit(step=1e-2).measure(module, (x, y))
    halves = [(x[:24], y[:24]), (x[24:], y[24:])]
    whole, true = rule_gradients(module, (x, y)).weights, true_gradients(module, (x, y)).weights
    g = [true_gradients(module, half).weights for half in halves]
    update = rule_gradients(module, halves[0]).weights
    for name in whole:
        a, b = (half[name].numpy().ravel() for half in g)
        cos = a @ b / np.sqrt((a @ a) * (b @ b))
        expected = np.degrees(np.arccos(np.sqrt(max(2 * cos / (1 + cos), 0))))
        ratio = np.linalg.norm(whole[name].numpy()) / np.linalg.norm(true[name].numpy())
        assert values[f"audit/log_scale/{name}"] == pytest.approx(np.log10(ratio), abs=1e-12)
        assert values[f"audit/ceiling/{name}"] == pytest.approx(expected, abs=1e-6)
        gains = [loss_after(module, name, d[name], halves[1]) for d in (update, g[0])]
        literal = gains[0] / gains[1] if gains[1] > 0 else math.nan
        assert values[f"audit/utility/{name}"] == pytest.approx(literal, rel=1e-9, nan_ok=True)
    hidden = [values[f"audit/log_scale/{name}"] for name in ("1", "3")]
    assert values["audit/log_scale/inexact"] == pytest.approx(sum(hidden) / 2)


def test_a_mean_over_layers_without_a_defined_use_is_nan_and_not_the_value_of_an_earlier_measurement():
    values = AlignmentAudit(step=1e3).measure(learner(mlp(), FeedbackAlignment()), task(48))
    assert all(math.isnan(values[f"audit/utility/{name}"]) for name in ("1", "3"))  # so long a step raises the loss
    assert math.isnan(values["audit/utility/inexact"])


def loss_after(module, name, direction, batch):
    """How much the loss falls by a step of 1 % of the weight's norm in one layer of a copy of the network."""
    network, (x, y) = copy.deepcopy(module.network), batch
    weight = network.get_submodule(name).weight
    with torch.no_grad():
        before = nn.functional.cross_entropy(network(x), y)
        weight -= 0.01 * weight.norm() * direction / direction.norm()
        return (before - nn.functional.cross_entropy(network(x), y)).item()


def test_the_ceiling_of_equal_halves_is_zero_and_of_orthogonal_ones_ninety():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert ceiling(a, a) == pytest.approx(0.0, abs=0.05)
    assert ceiling(a, b) == pytest.approx(90.0)
    assert ceiling(a, -b - a) == 90.0
    assert math.isnan(ceiling(a, 0 * b))


def test_the_ceiling_is_the_angle_to_the_gradient_that_both_halves_estimate():
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(400_000, generator=draw)
    first, second = (truth + torch.randn(400_000, generator=draw) for _ in range(2))
    mean = (first + second) / 2
    angle = math.degrees(math.acos((mean @ truth / mean.norm() / truth.norm()).item()))
    assert ceiling(first, second) == pytest.approx(angle, abs=0.5)


def test_ten_times_the_update_is_one_on_the_scale():
    assert log_scale(torch.tensor([10.0, 0.0]), torch.tensor([0.0, 1.0])) == 1.0
    assert math.isnan(log_scale(torch.zeros(2), torch.ones(2)))


def test_norms_whose_quotient_is_no_float_have_a_scale():
    tiny, huge = torch.tensor([1e-200], dtype=torch.float64), torch.tensor([1e200], dtype=torch.float64)
    assert log_scale(tiny, huge) == pytest.approx(-400)
    assert log_scale(tiny, huge * torch.inf) == -math.inf


@pytest.mark.parametrize("rule", [FeedbackAlignment, ForwardForward])
def test_weights_have_their_old_bits_after_a_measurement(rule):
    module = learner(mlp(), rule())
    before = copy.deepcopy(module.network.state_dict())
    AlignmentAudit(step=0.3).measure(module, task(48))
    assert all(torch.equal(value, before[name]) for name, value in module.network.state_dict().items())


def test_a_run_logs_the_audit_of_every_layer():
    recorder = Recorder()
    fit(mlp(), FeedbackAlignment(), [AlignmentAudit(), recorder], epochs=1)
    names = {key for key in recorder.curves.points if key.startswith("audit/")}
    kinds = ("log_scale", "ceiling", "utility")
    assert names == {f"audit/{kind}/{name}" for kind in kinds for name in ("1", "3", "5", "inexact")}


@pytest.mark.parametrize(
    ("options", "words"), [({"step": 0.0}, "above 0"), ({"step": math.inf}, "above 0"), ({"batch": 3}, "4 or more")]
)
def test_a_wrong_option_is_refused(options, words):
    with pytest.raises(MeasurementError, match=words):
        AlignmentAudit(**options)


def test_a_batch_without_two_halves_is_refused():
    with pytest.raises(MeasurementError, match="too few"):
        AlignmentAudit().measure(learner(mlp(), FeedbackAlignment()), task(3))
