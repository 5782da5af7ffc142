"""No rule issues a product that its formula does not have: counted, not timed.

F is the cost of one forward pass. Backprop is 3 F - F_1 (the first layer's input needs no gradient); feedback alignment
is the same to the operation; a rule with cuts is 2 F and its projections; Forward-Forward has two samples for one.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from lit_fa.layers import SignFeedback
from lit_fa.modules import Learner
from lit_fa.rules import (
    AugLocal,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    ForwardForward,
    LearningRule,
    PredSim,
)
from tests.cases import Case, cases
from tests.contract.costs import flops, peak_bytes, products
from tests.small_networks import CLASSES

N = 32


def wide_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(),
        nn.Linear(96, CLASSES),
    )  # fmt: skip


def wide_conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, CLASSES),
    )  # fmt: skip


NETWORKS = {"mlp": (wide_mlp, (64,)), "conv": (wide_conv, (2, 8, 8))}


def learner_and_batch(rule: Callable[[], LearningRule], network: str) -> tuple[Learner, tuple]:
    build, shape = NETWORKS[network]
    case = Case(network, rule, build, shape, None)
    return case.learner(dtype=torch.float32), case.batch(N, dtype=torch.float32)


def step(learner: Learner, batch: tuple) -> None:
    learner.zero_grad(set_to_none=True)
    learner(batch).value.backward()


def forward_flops(network: str) -> tuple[int, int]:
    """(F, F_1)."""
    learner, (x, _) = learner_and_batch(Backprop, network)
    return flops(lambda: learner.network(x)), flops(lambda: learner.network[0](x))


@pytest.mark.parametrize("network", NETWORKS)
def test_backprop_is_three_forward_passes_less_the_first_layer(network: str):
    learner, batch = learner_and_batch(Backprop, network)
    whole, first = forward_flops(network)
    assert flops(lambda: step(learner, batch)) == 3 * whole - first


@pytest.mark.parametrize("source", ["random", "sign", "kolen_pollack", "adaptive", "snapshot", "weight_mirror"])
@pytest.mark.parametrize("network", NETWORKS)
def test_feedback_alignment_issues_the_products_of_backprop_and_no_other(network: str, source: str):
    plain, batch = learner_and_batch(Backprop, network)
    learner, _ = learner_and_batch(partial(FeedbackAlignment, source), network)
    assert products(lambda: step(learner, batch)) == products(lambda: step(plain, batch))
    assert flops(lambda: step(learner, batch)) == flops(lambda: step(plain, batch))


@pytest.mark.parametrize("shape", ["dense", "per_channel", "shared", "transposed_conv"])
@pytest.mark.parametrize("teacher", ["error", "target"])
@pytest.mark.parametrize("network", NETWORKS)
def test_no_input_gradient_crosses_a_cut(network: str, teacher: str, shape: str):
    learner, batch = learner_and_batch(partial(DirectFeedbackAlignment, teacher, shape), network)
    whole, _ = forward_flops(network)
    projections = sum(2 * N * direct.weight.numel() for direct in learner.rule.feedback.values())
    assert flops(lambda: step(learner, batch)) == 2 * whole + projections
    blocks = len(learner.rule.feedback) + 1
    assert products(lambda: step(learner, batch)) == 2 * blocks + (blocks - 1)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("loss", ["predsim", "pred", "sim"])
def test_predsim_is_two_forward_passes_and_three_of_its_own_layers(network: str, loss: str):
    learner, batch = learner_and_batch(partial(PredSim, loss), network)
    whole, _ = forward_flops(network)
    own, pairs = 0, 0
    for unit, auxiliary in zip(learner.rule.units.values(), learner.rule.auxiliary.values(), strict=True):
        features = torch.zeros(N, *unit.shape)
        own += sum(flops(lambda: layer(features)) for layer in auxiliary.values())  # noqa: B023
        # S of the features, which needs two products on the way back, and S of the labels
        width = unit.shape[0] if unit.shape[0] > 3 else features[0].numel()
        pairs += 2 * N * N * (3 * width + CLASSES) if "similarity" in auxiliary else 0
    assert flops(lambda: step(learner, batch)) == 2 * whole + 3 * own + pairs


def test_auglocal_is_three_forward_passes_of_its_own_networks_and_two_of_cut_blocks():
    learner, batch = learner_and_batch(AugLocal, "mlp")
    whole, _ = forward_flops("mlp")
    head = learner.network[-1].weight.numel()  # the last hidden block and the head learn together
    own = sum(p.numel() for p in learner.rule.auxiliary.parameters() if p.ndim == 2)
    assert flops(lambda: step(learner, batch)) == 2 * whole + 2 * N * (3 * own + head)


@pytest.mark.parametrize("rule", [PredSim, AugLocal])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_block_behind_a_cut_reads_a_tensor_without_gradient(network: str, rule: Callable[[], LearningRule]):
    learner, batch = learner_and_batch(rule, network)
    layers = [m for m in learner.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    needed = []
    for layer in layers[: len(learner.rule.taps.names) + 1]:  # one layer a block, the last block's first one included
        layer.register_forward_pre_hook(lambda _m, args: needed.append(args[0].requires_grad))
    learner(batch)
    assert needed == [False] * (len(learner.rule.taps.names) + 1)


@pytest.mark.parametrize("rule", [DirectFeedbackAlignment, ForwardForward, partial(ForwardForward, label="channels")])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_cut_passes_on_a_tensor_that_requires_no_gradient(network: str, rule: Callable[[], LearningRule]):
    learner, batch = learner_and_batch(rule, network)
    needed = []
    for layer in [m for m in learner.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]:
        layer.register_forward_pre_hook(lambda _m, args: needed.append(args[0].requires_grad))
    learner(batch)
    assert needed
    assert not any(needed)


def parts(learner: Learner, x: torch.Tensor) -> tuple[int, int, int]:
    """(F, F_1, F_head) of a network for Forward-Forward, F without the head."""
    head = 2 * N * learner.network[-1].weight.numel()
    return flops(lambda: learner.network(x)) - head, flops(lambda: learner.network[0](x)), head


def of_labels(learner: Learner, labels: int) -> tuple[int, int]:
    """What adding labels to the first layer's output costs; and what making their maps costs, where there are maps."""
    layer = learner.network[0]
    if not hasattr(layer, "label"):
        return 2 * N * labels * CLASSES * layer.out_features, 0
    units = 8 * 8 if isinstance(layer, nn.Conv2d) else 1
    return 2 * N * labels * CLASSES * len(layer.weight) * units, 2 * CLASSES * layer.label.weight.numel() * units


@pytest.mark.parametrize(("network", "label"), [("mlp", "pixels"), ("mlp", "channels"), ("conv", "channels")])
@pytest.mark.parametrize("backend", ["closed_form", "autograd"])
@pytest.mark.parametrize("head", ["none", "softmax"])
def test_forward_forward_projects_an_image_once_for_both_labels(network: str, label: str, backend: str, head: str):
    learner, batch = learner_and_batch(partial(ForwardForward, label=label, head=head, backend=backend), network)
    whole, first, top = parts(learner, batch[0])
    expected = 4 * whole - 2 * first + 2 * sum(of_labels(learner, 2))
    if head == "softmax":
        expected += whole + 2 * top + sum(of_labels(learner, 1))
    assert flops(lambda: step(learner, batch)) == expected


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("head", ["none", "softmax"])
def test_forward_forward_on_pairs_of_image_and_label_is_four_forward_passes(network: str, head: str):
    learner, batch = learner_and_batch(partial(ForwardForward, head=head), network)
    learner.rule.labelled.layer = None  # as where the first layer is none that an image can be projected by once
    whole, _, top = parts(learner, batch[0])
    assert flops(lambda: step(learner, batch)) == 4 * whole + (whole + 2 * top if head == "softmax" else 0)


@pytest.mark.parametrize(("network", "label"), [("mlp", "pixels"), ("mlp", "channels"), ("conv", "channels")])
def test_prediction_by_goodness_projects_an_image_once_for_all_labels(network: str, label: str):
    learner, (x, _) = learner_and_batch(partial(ForwardForward, label=label), network)
    whole, first, _ = parts(learner, x)
    added, maps = of_labels(learner, CLASSES)
    passes = -(-N // (N // CLASSES))  # each makes the maps anew
    assert flops(lambda: learner.predict(x)) == CLASSES * whole - (CLASSES - 1) * first + added + passes * maps


@torch.no_grad()
def test_memory_of_a_prediction_does_not_grow_with_the_number_of_labels():
    def peak(classes: int) -> int:
        def build() -> nn.Module:
            return nn.Sequential(
                nn.Linear(200, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, classes)
            )

        learner = Case("labels", ForwardForward, build, (200,), None).learner(dtype=torch.float32)
        return peak_bytes(lambda: learner.predict(torch.zeros(400, 200)))

    assert peak(100) < 1.3 * peak(10)  # the scores themselves and the label's entries grow


def test_streaming_costs_one_more_forward_pass_for_the_error_and_none_for_the_target():
    whole, _ = forward_flops("mlp")
    costs = {}
    for teacher in ("error", "target"):
        learner, batch = learner_and_batch(partial(DirectFeedbackAlignment, teacher), "mlp")
        costs[teacher] = flops(lambda: learner.stream(batch, lambda value: value.backward()))  # noqa: B023
    assert costs["error"] - costs["target"] == whole


@pytest.mark.parametrize("network", NETWORKS)
def test_backward_of_a_frozen_layer_issues_no_product_for_its_weight(network: str):
    learner, batch = learner_and_batch(FeedbackAlignment, network)
    plain, _ = learner_and_batch(Backprop, network)
    for module in (learner, plain):
        module.network[2].requires_grad_(False)
    assert products(lambda: step(learner, batch)) == products(lambda: step(plain, batch))


def large_mlp() -> nn.Module:
    """Weights far larger than activations: a copy of them at the peak would show."""
    return nn.Sequential(
        nn.Linear(8, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(),
        nn.Linear(400, CLASSES),
    )  # fmt: skip


@pytest.mark.parametrize("source", [SignFeedback("usf"), "random"])
@pytest.mark.parametrize(("build", "shape", "n"), [(large_mlp, (8,), 4), (wide_conv, (2, 8, 8), 64)])
def test_the_way_back_allocates_no_second_set_of_weights(build: Callable, shape: tuple, n: int, source: object):
    def peak(rule: Callable[[], LearningRule]) -> int:
        case = Case("large", rule, build, shape, None)
        learner, batch = case.learner(dtype=torch.float32), case.batch(n, dtype=torch.float32)
        return peak_bytes(lambda: learner(batch).value.backward())

    assert peak(partial(FeedbackAlignment, source)) <= 1.01 * peak(Backprop)


@pytest.mark.parametrize("case", cases("mlp", where=lambda case: case.name.startswith("sign_")))
def test_sign_feedback_makes_no_parameter_in_the_forward_pass(case: Case):
    learner, batch = case.learner(), case.batch()
    before = [id(p) for p in learner.parameters()]
    learner(batch).value.backward()
    assert [id(p) for p in learner.parameters()] == before


def test_direct_feedback_holds_no_more_than_backprop_and_its_projections():
    plain, batch = learner_and_batch(Backprop, "conv")
    learner, _ = learner_and_batch(DirectFeedbackAlignment, "conv")
    widest = max(4 * N * direct.weight[0].numel() for direct in learner.rule.feedback.values())
    extra = peak_bytes(lambda: step(learner, batch)) - peak_bytes(lambda: step(plain, batch))
    assert extra <= widest + 4 * N * CLASSES * 8  # one projected error at a time, and a few tensors of the logits' size
