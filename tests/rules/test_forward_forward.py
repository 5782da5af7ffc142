"""Forward-Forward: local by construction, the same on ranks and after a restart, and able to learn."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.functional.goodness import normalise, overlay
from lit_fa.modules import Learner
from lit_fa.networks import create_network
from lit_fa.rules import ForwardForward, Progress
from tests.cases import RULES, Case, cases
from tests.contract import literal
from tests.contract.test_streaming import streamed
from tests.contract.training import record
from tests.gradients import array, gradients, largest_difference, taken
from tests.grids import slow_unless
from tests.reference import forward_forward
from tests.reference_adapters import forward_forward_blocks
from tests.small_networks import CLASSES, NETWORKS


def case(network: str = "mlp", **options: object) -> Case:
    return Case(f"ff-{network}", partial(ForwardForward, **options), *NETWORKS[network], None)


def of_child(grads: dict[str, Tensor], child: str) -> dict[str, Tensor]:
    return {name: g for name, g in grads.items() if name.startswith(f"network.{child}.")}


def normalised_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, CLASSES),
    )  # fmt: skip


def test_streaming_sees_the_same_dropout_and_statistics():
    c = Case("batch norm", ForwardForward, normalised_network, (12,), None)
    batch, one, two = c.batch(16), c.learner(), c.learner()
    torch.manual_seed(4)
    fused = gradients(one, batch)
    torch.manual_seed(4)
    assert largest_difference(streamed(two, batch), fused) == 0
    assert largest_difference(two.state_dict(), one.state_dict()) == 0
    assert one.state_dict()["network.1.num_batches_tracked"] == 2  # the neutral batch, and positive with negative


@pytest.mark.parametrize("training", [True, False])
def test_installing_leaves_modes_buffers_and_random_state_alone(training: bool):
    network, state = normalised_network().train(training), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Learner(network, ForwardForward(), torch.zeros(2, 12))
    assert torch.equal(torch.get_rng_state(), state)
    assert largest_difference(network.state_dict(), before) == 0
    assert network.training == training
    assert all(p.grad is None for p in network.parameters())


# hard negatives are those that the head on top believes
@pytest.mark.parametrize("case", cases(where=lambda case: case.name.startswith("ff_") and "hard" not in case.name))
def test_what_lies_above_a_block_does_not_reach_it(case: Case):
    learner, batch = case.learner(), case.batch()
    before = gradients(learner, batch)
    _, *later = [m for m in learner.network.children() if [*m.parameters()]]
    with torch.no_grad():
        for p in (p for module in later for p in module.parameters()):
            p.mul_(3)
    after = gradients(learner, batch)
    assert largest_difference(of_child(after, "0"), of_child(before, "0")) == 0
    assert largest_difference(after, before) > 0


def test_the_criterion_reaches_the_head_and_no_other():
    one, two = (Learner(case().learner().network, ForwardForward(), torch.zeros(2, 12).double(), c)
                for c in ("cross_entropy", "mse"))  # fmt: skip
    two.network.load_state_dict(one.network.state_dict())
    a, b = gradients(one, case().batch()), gradients(two, case().batch())
    assert [name for name in a if not torch.equal(a[name], b[name])] == ["network.6.weight", "network.6.bias"]


def test_scaling_a_block_changes_nothing_for_the_next():
    """The next block reads directions, not goodness. A head of activities without bias shows it exactly."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 8, bias=False), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, CLASSES))

    c = Case("relu", ForwardForward, build, (12,), None)
    learner, batch = c.learner(), c.batch()
    before = gradients(learner, batch)
    with torch.no_grad():
        learner.network[0].weight.mul_(2)
    after = gradients(learner, batch)
    # rms adds 1e-8 to a length of about one
    assert largest_difference(of_child(after, "2"), of_child(before, "2")) < 1e-7
    assert largest_difference(of_child(after, "0"), of_child(before, "0")) > 1e-3


@pytest.mark.parametrize("label", ["pixels", "channels"])
@pytest.mark.parametrize("network", NETWORKS)
def test_predict_is_a_literal_loop_over_labels(network: str, label: str):
    learner, (x, _) = case(network, label=label).learner(), case(network).batch(7)
    blocks = forward_forward_blocks(learner)
    first = 0 if len(blocks) <= 3 else 1  # of more than two hidden blocks the first does not count
    expected = forward_forward.scores(blocks, array(x), CLASSES, literal.forward, first, label)
    assert largest_difference({"": learner.predict(x)}, {"": expected}) < 1e-12


ONCE = [("mlp", "pixels"), *((network, "channels") for network in NETWORKS)]


@pytest.mark.parametrize(("network", "label"), ONCE)
@pytest.mark.parametrize("normalise", ["rms", "l2", "none"])
def test_an_image_projected_once_learns_what_pairs_of_image_and_label_learn(network: str, label: str, normalise: str):
    c = case(network, label=label, normalise=normalise, strength=1.7)
    learner, (x, y) = c.learner(), c.batch()
    assert learner.rule.labelled.once
    x.requires_grad_()
    found = [gradients(learner, (x, y)) | {"inputs": x.grad, "scores": learner.predict(x).detach()}]
    x.grad = None
    learner.rule.labelled.once = False
    if label == "pixels":
        learner.rule.labelled.layer = None
    found.append(gradients(learner, (x, y)) | {"inputs": x.grad, "scores": learner.predict(x).detach()})
    assert found[0]["inputs"].abs().max() > 0
    # l2 makes activities small and their gradients large: relative to them
    assert largest_difference(*found) < 1e-14 * max(1, *(t.abs().max().item() for t in found[0].values()))


class Beside(nn.Module):
    """Shows the input to the last layer once more."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(12, 8), nn.ReLU(), nn.Linear(8 + 12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.act(self.first(x)), x], 1))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, CLASSES)),
        lambda: nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, CLASSES)),
        Beside,
        NETWORKS["tokens"][0],
        NETWORKS["residual"][0],
    ],
)
def test_a_network_that_does_more_with_its_input_gets_it_label_by_label(build: Callable):
    shape = next((shape for known, shape in NETWORKS.values() if known is build), (12,))
    c = Case("", ForwardForward, build, shape, None)
    learner = c.learner()
    assert learner.rule.labelled.layer is None
    assert all(g.isfinite().all() for g in gradients(learner, c.batch()).values())
    assert learner.eval().predict(c.batch()[0]).shape == (6, CLASSES)


@pytest.mark.parametrize("kind", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["threshold", "symba", "margin"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_closed_form_is_what_autograd_finds(network: str, loss: str, kind: str):
    options = {"loss": loss, "goodness": kind, "peer": 0.03, "threshold": 0.8}
    one, other = (case(network, backend=backend, **options).learner() for backend in ("closed_form", "autograd"))
    batch = case(network).batch()
    assert largest_difference(gradients(one, batch), gradients(other, batch)) < 1e-12
    assert (one(batch).value - other(batch).value).abs() < 1e-12


def test_label_channels_are_the_first_blocks_and_drawn_by_the_rules_seed():
    learner = case("small_conv", label="channels", schedule="greedy", seed=3).learner()
    label = learner.network[0].label
    assert label.weight.shape == (4, CLASSES, 3, 3)
    assert label.weight.abs().max() <= 1 / math.sqrt((2 + CLASSES) * 9)
    assert label.weight.std().item() == pytest.approx(1 / math.sqrt(3 * (2 + CLASSES) * 9), rel=0.1)
    assert learner.rule.owners["0.label.weight"] == learner.rule.owners["0.weight"] == 0
    again, other = (case("small_conv", label="channels", seed=s).learner(seed=9).network[0].label for s in (3, 4))
    assert torch.equal(again.weight, label.weight)
    assert not torch.equal(other.weight, label.weight)


def test_a_network_with_label_channels_is_the_plain_network_when_called_without_a_label():
    learner, (x, _) = case("small_conv", label="channels").learner(), case("small_conv").batch()
    torch.manual_seed(0)
    assert torch.equal(learner.network(x), NETWORKS["small_conv"][0]().double()(x))


# name: (arguments, image side)
FOREIGN = {
    "resnet18": ({}, 32),
    "nf_resnet26": ({}, 32),
    "convnext_atto": ({}, 32),
    "efficientnet_b0": ({}, 32),
    "vit_tiny_patch16_224": ({"depth": 2}, 32),
    "lenet": ({}, 32),
    "vgg_small": ({}, 32),
}


@pytest.mark.parametrize(
    ("name", "label"),
    slow_unless(
        lambda name, label: label == "channels" or not name.startswith(("nf_", "conv", "eff")),
        product(FOREIGN, ["pixels", "channels"]),
    ),
)
def test_a_network_by_name_learns_from_labels(name: str, label: str):
    arguments, side = FOREIGN[name]
    torch.manual_seed(0)
    network = create_network(name, CLASSES, (3, side, side), **arguments)
    learner = Learner(
        network, ForwardForward(label=label, head="none", uncovered="warn"), torch.zeros(2, 3, side, side)
    )
    x, y = torch.randn(4, 3, side, side), torch.tensor([0, 1, 2, 3])
    assert learner.rule.labelled.once is (label == "channels")
    grads = gradients(learner, (x, y))
    trained = {f"network.{n}" for n, number in learner.rule.owners.items() if number < len(learner.rule.taps.names)}
    assert grads.keys() == trained
    assert all(g.isfinite().all() for g in grads.values())
    scores = learner.eval().predict(x)
    assert scores.std(1).min() > 0  # the label is seen


def test_predicting_by_the_head_reads_a_neutral_label():
    learner, (x, y) = case(predict_by="softmax").learner(), case().batch()
    assert torch.equal(learner.predict(x), learner((x, y)).logits)
    relabelled = overlay(x, torch.eye(CLASSES).double()[y])
    assert torch.equal(learner.predict(relabelled), learner.predict(x))


def test_whatever_stood_where_the_label_stands_is_overwritten():
    learner, (x, _) = case(position=3).learner(), case().batch()
    changed = x.clone()
    changed[:, 3 : 3 + CLASSES] = 7.0
    assert torch.equal(learner.predict(changed), learner.predict(x))
    changed[:, 0] = 7.0
    assert not torch.equal(learner.predict(changed), learner.predict(x))


def test_without_a_head_its_tensors_are_frozen_and_the_logits_compare_two_labels():
    learner, (x, y) = case(head="none").learner(), case().batch()
    assert learner.coverage.unreached == []
    assert [n for n, p in learner.network.named_parameters() if not p.requires_grad] == ["6.weight", "6.bias"]
    grads = gradients(learner, (x, y))
    expected = gradients(case().learner(), (x, y))
    assert largest_difference(grads, {name: expected[name] for name in grads}) == 0
    logits, wrong = learner((x, y)).logits, learner.rule.wrong_labels(x, y)
    scores = learner.predict(x)
    for labels in (y, wrong):
        assert torch.allclose(logits.gather(1, labels[:, None]), scores.gather(1, labels[:, None]), atol=1e-14)
    assert ((logits.argmax(1) == y) | (logits.argmax(1) == wrong)).all()


@pytest.mark.parametrize("negatives", ["uniform", "permutation", "hard"])
def test_wrong_labels_change_with_the_step_and_not_with_the_call(negatives: str):
    learner, (x, y) = case(negatives=negatives).learner(), case().batch(200)
    logits = learner.rule._head_logits(learner.network, x).detach()
    draw = partial(learner.rule.wrong_labels, x, y, logits)
    first = draw()
    assert torch.equal(draw(), first)
    learner.after_step(Progress(1))
    assert learner.rule.steps.item() == 1
    assert not torch.equal(draw(), first)


def test_hard_negatives_are_those_the_read_out_believes():
    learner, (x, y) = case(negatives="hard").learner(), case().batch(100)
    with torch.no_grad():
        learner.network[6].bias[3] = 50.0
    wrong = learner.rule.wrong_labels(x, y, learner((x, y)).logits)
    assert (wrong[y != 3] == 3).all()
    assert (wrong != y).all()


def test_the_greedy_schedule_moves_one_block_after_the_other():
    learner, batch = case(schedule="greedy").learner(), case().batch()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    order = []
    for number in range(6):
        before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
        learner(batch).value.backward()
        learner.edit_gradients()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        learner.after_step(Progress(number + 1, total_steps=6))
        order.append({n.split(".")[0] for n, p in learner.network.named_parameters() if not torch.equal(p, before[n])})
    assert order == [{"0", "6"}, {"0", "6"}, {"2", "6"}, {"2", "6"}, {"4", "6"}, {"4", "6"}]  # 6 is the head


def test_the_block_whose_turn_it_is_learns_as_it_would_among_all():
    greedy, simultaneous, batch = case(schedule="greedy").learner(), case().learner(), case().batch()
    assert (
        largest_difference(of_child(gradients(greedy, batch), "0"), of_child(gradients(simultaneous, batch), "0")) == 0
    )


def test_peer_normalisation_adds_its_own_gradient():
    plain, peer, batch = case().learner(), case(peer=0.5).learner(), case().batch()
    x, y = batch
    h = plain.network[1](plain.network[0](normalise(overlay(x, torch.eye(CLASSES).double()[y]))))
    penalty = ((h.mean(0).mean() - h.mean(0)) ** 2).mean()
    weight = plain.network[0].weight
    expected = 0.5 * torch.autograd.grad(penalty, weight)[0]
    change = gradients(peer, batch)["network.0.weight"] - gradients(plain, batch)["network.0.weight"]
    assert torch.allclose(change, expected, rtol=0, atol=1e-14)


COMPILED = [{}, {"negatives": "hard"}, {"negatives": "permutation", "schedule": "greedy"}]


@pytest.mark.parametrize(
    ("network", "options"),
    slow_unless(lambda network, options: network == "mlp" and "schedule" in options, product(NETWORKS, COMPILED)),
)  # without options it is a rule of the contract
def test_it_compiles_without_a_graph_break(network: str, options: dict):
    learner, batch = case(network, **options).learner(), case(network).batch()
    expected = gradients(learner, batch)
    torch._dynamo.reset()
    torch.compile(learner, fullgraph=True, backend="aot_eager")(batch).value.backward()
    assert largest_difference(taken(learner), expected) < 1e-14


def test_two_ranks_equal_one(tmp_path: Path):
    assert "negatives" not in RULES["ff_threshold"][0].keywords  # a permutation is of the rank's own batch
    one = record(tmp_path / "one", rule="ff_threshold", epochs=2)
    two = record(tmp_path / "two", rule="ff_threshold", epochs=2, devices=2)
    assert two["ranks"][0]["losses"] != two["ranks"][1]["losses"]
    # float64: the mean of two halves' means is the whole's mean up to rounding
    assert largest_difference(two["state"], one["state"]) < 1e-12
    assert largest_difference(two["ranks"][0]["state"], two["ranks"][1]["state"]) == 0


@pytest.mark.parametrize("loss", ["threshold", "symba", "margin"])
def test_it_learns_to_classify_by_goodness(loss: str):
    torch.manual_seed(0)
    centres = torch.randn(CLASSES, 20)
    y = torch.arange(200) % CLASSES
    x = torch.cat([torch.zeros(200, CLASSES), centres[y] + 0.3 * torch.randn(200, 20)], 1)
    network = nn.Sequential(nn.Linear(25, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, CLASSES))
    learner = Learner(network, ForwardForward(loss), x[:2])
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
    for number in range(150):
        optimizer.zero_grad()
        learner((x, y)).value.backward()
        optimizer.step()
        learner.after_step(Progress(number + 1))
    assert (learner.predict(x).argmax(1) == y).double().mean() > 0.9
    assert (learner((x, y)).logits.argmax(1) == y).double().mean() > 0.9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "hinge"}, "loss is one of threshold, symba, margin, not 'hinge'"),
        ({"negatives": "hard", "head": "none"}, "set head: softmax"),
        ({"predict_by": "softmax", "head": "none"}, "set head: softmax"),
        ({"position": 8}, "do not fit 12 inputs"),
        ({"label": "planes"}, "label is one of pixels, channels, not 'planes'"),
        ({"label": "channels", "position": 3}, "remove it, or set label: pixels"),
        ({"backend": "fused"}, "backend is one of closed_form, autograd, not 'fused'"),
        ({"predict_from": 3}, "predict_from is a block from 0 to 2, not 3"),
        ({"blocks": ["nothing"]}, "no module matches 'nothing'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: dict, words: str):
    with pytest.raises(UserError, match=words) as refusal:
        case(**options).learner()
    assert "\n" not in str(refusal.value)


def test_a_network_without_hidden_block_is_refused():
    with pytest.raises(UserError, match="a hidden block"):
        Learner(nn.Sequential(nn.Linear(12, CLASSES)), ForwardForward(), torch.zeros(2, 12))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, CLASSES)),
            r"not 1 \(Linear",
        ),
        (
            lambda: nn.Sequential(
                nn.Unflatten(1, (3, 4)), nn.ConvTranspose1d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(20, CLASSES)
            ),
            r"not 1 \(ConvTranspose1d\)",
        ),
    ],
)
def test_label_channels_need_a_first_layer_that_reads_the_input(build: Callable, words: str):
    with pytest.raises(UserError, match=f"first linear or conv layer that reads the input itself, {words}") as refusal:
        Case("", partial(ForwardForward, label="channels"), build, (12,), None).learner()
    assert "\n" not in str(refusal.value)


def test_an_activation_in_place_behind_the_first_layer_changes_nothing():
    found = []
    for in_place in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(12, 8), nn.ReLU(in_place), nn.Linear(8, 8), nn.ReLU(in_place), nn.Linear(8, CLASSES)
        ).double()
        one = Learner(network, ForwardForward(), torch.zeros(2, 12, dtype=torch.float64))
        found.append(gradients(one, case().batch()))
    assert largest_difference(*found) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_streamed_gradients_are_those_of_one_backward_pass_bit_for_bit(name: str):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    learner = Learner(build(), ForwardForward("symba", head="none"), torch.randn(2, *shape))
    batch = torch.randn(16, *shape), torch.randint(3, (16,))
    learner(batch).value.backward()
    fused = {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}
    learner.zero_grad()
    learner.stream(batch, torch.Tensor.backward)
    assert all(torch.equal(learner.get_parameter(n).grad, grad) for n, grad in fused.items())
