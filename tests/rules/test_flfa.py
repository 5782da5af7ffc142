"""FLFA: what it leaves as it is, what it changes, and how its layers are named or chosen."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from lit_fa.datamodules.rounds import LocalWork
from lit_fa.errors import UserError
from lit_fa.federated import FedNova, FedProx, LocalSGD, Scaffold
from lit_fa.layers import feedback_layers, last_of_stages
from lit_fa.modules import Classifier, FederatedClassifier, Learner
from lit_fa.networks import create_network
from lit_fa.rules import FLFA, Backprop, PrivateComparison
from tests.federated.federation import CLASSES, loader, quiet, trained, weights

IMAGE = (3, 12, 12)


def cnn(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, CLASSES),
    )  # fmt: skip


def batch(n: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, *IMAGE, generator=g), torch.randint(CLASSES, (n,), generator=g)


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    learner.zero_grad()
    learner(batch()).value.backward()
    return {name: p.grad.clone() for name, p in learner.named_parameters()}


def installed(rule, network: nn.Module | None = None) -> Learner:
    return Learner(network or cnn(), rule, batch(2)[0])


def after_a_step(rule) -> Learner:
    """One SGD step on the true gradient: weights are no longer the snapshot."""
    learner = installed(rule)
    grads = gradients(installed(Backprop()))
    with torch.no_grad():
        for name, p in learner.named_parameters():
            p.sub_(grads[name])
    return learner


@pytest.mark.parametrize("rescale", ["row", "matrix", "none"])
@pytest.mark.parametrize("layers", [None, "official", ["9"], ["*"]])
def test_the_first_local_step_is_backprops_bit_for_bit(layers, rescale: str):
    ours, plain = gradients(installed(FLFA(layers, rescale=rescale))), gradients(installed(Backprop()))
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("layer", "changed"), [("11", ["9", "5", "4", "1", "0"]), ("9", ["5", "4", "1", "0"]), ("0", [])]
)
def test_gradients_at_and_above_a_layer_are_backprops_and_those_below_are_not(layer: str, changed: str):
    ours, plain = gradients(after_a_step(FLFA([layer], uncovered="allow"))), gradients(after_a_step(Backprop()))
    differ = {name.split(".")[1] for name in plain if not torch.equal(ours[name], plain[name])}
    assert differ == set(changed)


@pytest.mark.parametrize("feedback", ["snapshot", "random", "redrawn"])
def test_rows_of_the_feedback_are_as_long_as_those_of_the_weights(feedback: str):
    for layer in feedback_layers(after_a_step(FLFA(None, feedback=feedback)).network).values():
        rows, of_weight = (m.flatten(1).norm(dim=1) for m in (layer.feedback.matrix(layer.weight), layer.weight))
        torch.testing.assert_close(rows, of_weight, rtol=1e-6, atol=0)
        if feedback == "snapshot":
            assert not torch.equal(layer.feedback.matrix(layer.weight), layer.weight)


@pytest.mark.parametrize("executor", ["sequential", "vmap", "stacked"])
@pytest.mark.parametrize("algorithm", [None, FedProx(0.3), FedNova(), Scaffold()])
def test_one_local_step_a_round_is_the_algorithm_itself(algorithm, executor: str):
    one, options = LocalWork(8, steps=1), {"executor": executor}
    ours, plain = (weights(trained(algorithm, LocalSGD(0.2), rule=r, work=one, **options)) for r in (FLFA(None), None))
    assert ours.keys() == plain.keys()
    assert all((ours[name] - plain[name]).abs().max() < 1e-15 for name in plain)


def test_the_snapshot_is_that_of_the_round_and_every_other_step_differs():
    two = LocalWork(8, steps=2)
    ours, plain = (weights(trained(rule=r, work=two)) for r in (FLFA(None), None))
    assert not torch.equal(ours["network.0.weight"], plain["network.0.weight"])


def test_redrawn_feedback_is_new_in_every_round_and_the_same_for_all_who_ask():
    learner = installed(FLFA(["9"], feedback="redrawn", uncovered="allow"))
    state = dict(learner.named_parameters()), dict(learner.named_buffers())
    a, again, b = (learner.renewed(*state, number)["network.9.feedback.weight"] for number in (1, 1, 2))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert installed(FLFA(["9"], feedback="random")).renewed(*state, 1) == {}


OFFICIAL = {
    "resnet18_small": [f"blocks.{i}.branch.conv2" for i in (2, 4, 6, 8)] + ["head.linear"],
    "resnet50_small": [f"blocks.{i}.branch.conv3" for i in (3, 7, 13, 16)] + ["head.linear"],
    "shufflenetv2_100": [f"blocks.{i}.branch2.5" for i in (4, 12)] + ["blocks.17.0", "head.linear"],
    "resnet18": ["layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2", "layer4.1.conv2", "fc"],
    "resnet50": ["layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3", "fc"],
    "mobilenetv2_100": ["blocks.0.0.conv_pw", "blocks.1.1.conv_pwl", "blocks.2.2.conv_pwl", "blocks.4.2.conv_pwl",
                        "conv_head", "classifier"],
    "efficientnet_b0": ["blocks.0.0.conv_pw", "blocks.1.1.conv_pwl", "blocks.2.1.conv_pwl", "blocks.4.2.conv_pwl",
                        "conv_head", "classifier"],
}  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_layers_end_the_stages(name: str):
    network = create_network(name, 10, (3, 64, 64))
    found = [
        layer for layer in last_of_stages(network, torch.zeros(2, 3, 64, 64)) if layer not in ("conv1", "blocks.0.0")
    ]
    assert found == OFFICIAL[name]


class Block(nn.Module):
    """Two convolutions, or one, and a projection beside them, by any name and called first or last."""

    def __init__(self, i: int, o: int, name: str, *, first: bool, branch: int = 2, inplace: bool = False):
        super().__init__()
        self.name, self.first, self.inplace = name, first, inplace
        convs = [nn.Conv2d(i, o, 3, 2, 1), *(nn.Conv2d(o, o, 3, 1, 1) for _ in range(branch - 1))]
        self.branch = nn.Sequential(*(m for conv in convs for m in (conv, nn.ReLU())))[:-1]
        self.add_module(name, nn.Conv2d(i, o, 1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        beside = getattr(self, self.name)
        if self.first:
            projected, out = beside(x), self.branch(x)
        else:
            out, projected = self.branch(x), beside(x)
        if self.inplace:
            out += projected
            return out
        return out + projected


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("branch", [1, 2])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ["proj", "skip", "downsample", "identity_conv"])
def test_a_projection_beside_a_branch_ends_no_stage_whatever_it_is_called(
    name: str, first: bool, branch: int, inplace: bool
):
    options = {"first": first, "branch": branch, "inplace": inplace}
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), Block(4, 6, name, **options), nn.ReLU(), Block(6, 8, name, **options),
        nn.Flatten(), nn.Linear(72, 5),
    )  # fmt: skip
    network[1].requires_grad_(False)
    end = 2 * (branch - 1)
    expected = ["0", f"1.branch.{end}", f"3.branch.{end}", "5"]
    assert last_of_stages(network, torch.zeros(2, *IMAGE)) == expected


def test_the_first_layer_is_never_official_since_it_has_no_one_to_tell():
    assert [*feedback_layers(installed(FLFA()).network)] == ["4", "11"]


def run(rule: FLFA, rounds: int = 2, **options) -> FederatedClassifier:
    return trained(rule=rule, rounds=rounds, **options)


def test_chosen_layers_are_those_in_which_gradients_agree_least_or_most():
    low, high = (run(FLFA(f"{which}:1"), net=deep(), inputs=8) for which in ("lowest", "highest"))
    scores = low.selections[0]["similarity"]
    assert scores == high.selections[0]["similarity"]
    assert {*scores} == {"2", "4", "6"}  # all but the first
    assert low.selections[0]["chosen"] == [min(scores, key=scores.get)]
    assert high.selections[0]["chosen"] == [max(scores, key=scores.get)]
    assert [*feedback_layers(low.network)] == low.selections[0]["chosen"]


def deep() -> nn.Module:
    torch.manual_seed(0)
    widths = [8, 9, 7, 6, CLASSES]
    layers = [m for i, o in pairwise(widths) for m in (nn.Linear(i, o), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


def test_a_layer_that_is_not_chosen_stores_nothing_and_is_backprop():
    learner = installed(FLFA("lowest:1"))
    assert all(b.numel() == 0 for b in learner.buffers())
    learner.rule.switch(learner.network, ["9"])
    named = installed(FLFA(["9"]))
    kept = {name: b for name, b in learner.named_buffers() if b.numel()}
    assert all(torch.equal(b, kept[name]) for name, b in named.named_buffers())
    assert {*kept} == {name for name, _ in named.named_buffers()}
    with torch.no_grad():
        for of in (learner, named):
            of.network[9].weight.add_(0.1)
    a, b = gradients(learner), gradients(named)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_choice_is_in_the_state_dict():
    chosen = installed(FLFA("lowest:1"))
    chosen.rule.switch(chosen.network, ["4"])
    fresh = installed(FLFA("lowest:1"))
    fresh.load_state_dict(copy.deepcopy(chosen.state_dict()))
    assert [*feedback_layers(fresh.network)] == ["4"]
    fresh.load_state_dict(installed(FLFA("lowest:1")).state_dict())
    assert [*feedback_layers(fresh.network)] == []


def test_layers_are_chosen_again_every_so_many_rounds():
    assert [s["round"] for s in run(FLFA("lowest:1", reselect_every=2), rounds=5).selections] == [0, 2, 4]
    assert [s["round"] for s in run(FLFA("lowest:1"), rounds=5).selections] == [0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FLFA(["nothing*"]), r"layers: .*nothing\*"),
        (lambda: FLFA(["4", "77"]), "layers: .*77"),
        (lambda: FLFA("lowest:9"), "error passes through 3 layers"),
        (lambda: FLFA("lowest:0"), "lowest:k or highest:k"),
        (lambda: FLFA("last"), "official, lowest:k"),
        (lambda: FLFA(feedback="global"), "feedback is one of snapshot, random, redrawn"),
        (lambda: FLFA(rescale="rows"), "rescale is one of row"),
        (lambda: FLFA(reselect_every=3), "set layers: lowest:k"),
        (lambda: FLFA("lowest:1", reselect_every=-1), "reselect_every is a number of rounds"),
        (lambda: FLFA("lowest:1", private=PrivateComparison(noise=0.0)), "noise > 0"),
    ],
)
def test_options_that_cannot_be_are_one_clear_line(make, says: str):
    with pytest.raises(UserError, match=says) as refused:
        installed(make())
    assert "\n" not in str(refused.value)


def test_a_plain_classifier_has_no_clients_to_compare():
    with pytest.raises(UserError, match="FLFA chooses layers by comparing clients: name them, or federate"):
        Classifier(cnn(), FLFA("lowest:1"), CLASSES, IMAGE)


def test_one_client_is_nobody_to_compare_with():
    one = loader(2, inputs=8)
    one.parts = one.parts[:1]
    one.clients_per_round = 1
    module = FederatedClassifier(deep(), FLFA("lowest:1"), image_shape=(8,), num_classes=CLASSES)
    with pytest.raises(UserError, match="by comparing clients, and there is one"):
        quiet(max_epochs=1).fit(module, one)


def test_scaffold_with_momentum_is_refused_under_flfa_as_ever():
    with pytest.raises(UserError, match=r"Scaffold .* use LocalSGD without momentum"):
        run(FLFA(None), algorithm=Scaffold(), local_optimizer=LocalSGD(0.1, momentum=0.9))
