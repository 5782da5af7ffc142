"""The logged angle is that of what the error really goes back through."""

import numpy as np
import pytest
import torch
from torch import nn

from lit_fa.callbacks import Recorder, WeightAlignment
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment, SignFeedback
from tests.callbacks.training import conv_net, fit, mlp
from tests.reference import alignment as literal


def aligned(network, rule):
    recorder = Recorder()
    _, module = fit(network, rule, [WeightAlignment(), recorder])
    logged = {key: v for key, v in recorder.curves.last().items() if key.startswith("align/")}
    return logged, {name: t.detach().numpy() for name, t in module.network.state_dict().items()}, module


def compare(logged, pairs):
    flat = [np.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs.values(), strict=True)]
    pairs = {**pairs, "overall": flat}
    by_hand = {f"align/weight/{name}": literal.angle(*pair) for name, pair in pairs.items()}
    by_hand |= {f"align/weight_cosine/{name}": literal.cosine(*pair) for name, pair in pairs.items()}
    assert logged == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("network", [mlp, conv_net])
@pytest.mark.parametrize("source", ["random", "kolen_pollack", "weight_mirror"])
def test_stored_feedback_is_compared_as_it_stands(source, network):
    logged, state, _ = aligned(network(), FeedbackAlignment(source))
    names = [key.removesuffix(".feedback.weight") for key in state if key.endswith("feedback.weight")]
    assert len(names) == 2
    compare(logged, {name: (state[f"{name}.weight"], state[f"{name}.feedback.weight"]) for name in names})


def test_uniform_sign_feedback_is_compared_with_the_signs_of_todays_weights():
    logged, state, _ = aligned(mlp(), FeedbackAlignment(SignFeedback(scale=0.3)))
    compare(logged, {n: (state[f"{n}.weight"], 0.3 * np.sign(state[f"{n}.weight"])) for n in ("3", "5")})


def test_random_magnitudes_are_compared_with_their_signs():
    logged, state, _ = aligned(mlp(), FeedbackAlignment(SignFeedback(variant="frsf")))
    signed = {n: state[f"{n}.feedback.weight"] * np.sign(state[f"{n}.weight"]) for n in ("3", "5")}
    compare(logged, {n: (state[f"{n}.weight"], b) for n, b in signed.items()})


def test_direct_feedback_is_compared_link_by_link():
    logged, state, module = aligned(mlp(), DirectFeedbackAlignment())
    first, last = (link.weight.numpy() for link in module.rule.feedback.values())
    compare(logged, {"3": (state["3.weight"], last.T @ first), "5": (state["5.weight"], last)})


def test_conv_layers_have_no_counterpart_under_direct_feedback():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    logged, _, _ = aligned(network, DirectFeedbackAlignment())
    assert {key for key in logged if "cosine" not in key} == {f"align/weight/{n}" for n in ("3", "5", "overall")}


def test_backprop_has_nothing_to_align():
    logged, _, _ = aligned(mlp(), Backprop())
    assert logged == {}


def test_feedback_equal_to_the_weights_is_parallel():
    rule = FeedbackAlignment(SignFeedback(scale=1.0))
    network = mlp()
    with torch.no_grad():
        for layer in (network[3], network[5]):
            layer.weight.copy_(layer.weight.sign())
    recorder = Recorder()
    fit(network, rule, [WeightAlignment(), recorder], epochs=1)
    assert recorder.curves.points["align/weight/overall"][0][2] == pytest.approx(0.0, abs=1e-5)
