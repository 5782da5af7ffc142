"""A rule's contract: what it does is read off its methods, and it names tensors as it knows them itself."""

import ast
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.federated import LocalSGD
from lit_fa.modules import Classifier
from lit_fa.rules import (
    FLFA,
    Backprop,
    ComparesClients,
    DirectFeedbackAlignment,
    Does,
    FeedbackAlignment,
    FeedbackWeightMatching,
    ForwardForward,
    Halves,
    LearningRule,
    PredSim,
    Progress,
    Pruning,
    SignFeedback,
    SVDBackprop,
    SVDSpaceAlignment,
)
from lit_fa.rules.base import refuse
from lit_fa.rules.learner import Learner
from tests.federated.federation import CLASSES, INPUTS, largest_difference, trained, weights

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("rule", "does"),
    [
        (LearningRule, ""),
        (Backprop, ""),
        (FeedbackAlignment, ""),
        (partial(FeedbackAlignment, SignFeedback("brsf")), "EVOLVES"),
        (FLFA, ""),
        (partial(FLFA, "lowest:1"), "COMPARES"),
        (DirectFeedbackAlignment, "BUILDS STREAMS"),
        (partial(DirectFeedbackAlignment, "target"), "BUILDS STREAMS"),
        (partial(DirectFeedbackAlignment, "target", target_reduction="sum"), "BUILDS STREAMS SUMS"),
        (FeedbackWeightMatching, "BUILDS STREAMS PREPARES"),
        (ForwardForward, "BUILDS STREAMS EVOLVES PREDICTS"),
        (partial(ForwardForward, schedule="greedy"), "BUILDS STREAMS EVOLVES PREDICTS EDITS"),
        (PredSim, "BUILDS STREAMS"),
        (SVDBackprop, "EDITS EVOLVES"),
        (partial(SVDBackprop, pruning=Pruning()), "EDITS EVOLVES RESHAPES"),
        (partial(SVDBackprop, pruning=Pruning(physical=False)), "EDITS EVOLVES"),
        (SVDSpaceAlignment, "BUILDS STREAMS EDITS EVOLVES"),
        (partial(SVDSpaceAlignment, "sequential"), "BUILDS EDITS EVOLVES"),
    ],
)
def test_what_a_rule_does_follows_from_its_methods_and_options(rule, does: str):
    assert rule().does == {Does[name] for name in does.split()}


class Counting(FeedbackAlignment):
    """Fixed feedback; state of its own that evolves, and trains under an edited gradient."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))

    def surrogate(self, network, batch, criterion):
        found = super().surrogate(network, batch, criterion)
        return found._replace(value=found.value * self.gain.detach() + self.gain * found.value.detach())

    def edit_gradients(self, params, grads, progress):
        halved = {name: grad / 2 for name, grad in grads.network.items() if name.endswith("bias")}
        return Halves(halved, {"gain": grads.rule["gain"] * 0 + params.network["0.bias"].sum()})

    def after_step(self, params, buffers, progress):
        return Halves({"2.bias": params.network["2.bias"] * 0.9}, {}), Halves({}, {"steps": buffers.rule["steps"] + 1})


def test_a_subclass_that_overrides_a_method_does_it_whatever_its_base_class_says():
    assert Counting().does == {Does.BUILDS, Does.EDITS, Does.EVOLVES}


def test_a_rule_edits_and_renews_what_is_its_own_by_its_own_names():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(INPUTS, 7), nn.Tanh(), nn.Linear(7, CLASSES)).double()
    learner = Learner(network, Counting(), torch.zeros(2, INPUTS, dtype=torch.float64))
    batch = torch.randn(6, INPUTS, dtype=torch.float64), torch.arange(6) % CLASSES
    learner(batch).value.backward()
    before = {name: p.grad.clone() for name, p in learner.named_parameters()}
    learner.edit_gradients()
    assert learner.rule.gain.grad == network[0].bias.sum()
    assert torch.equal(network[0].bias.grad, before["network.0.bias"] / 2)
    assert torch.equal(network[0].weight.grad, before["network.0.weight"])
    bias = network[2].bias.detach().clone()
    learner.after_step(Progress(1))
    assert learner.rule.steps == 1
    assert torch.equal(network[2].bias, bias * 0.9)


def test_clients_side_by_side_do_what_one_after_another_does_under_a_users_rule():
    runs = [trained(None, LocalSGD(0.1), rule=Counting(), executor=executor) for executor in ("sequential", "vmap")]
    assert largest_difference(*map(weights, runs)) < 1e-12
    assert (runs[0].rule.steps - runs[1].rule.steps).abs() < 1e-12 < runs[0].rule.steps


@pytest.mark.parametrize("rule", [SVDBackprop(project=False, orthogonality=0.0), SVDBackprop(project=True)])
def test_only_gradients_that_change_are_returned(rule: SVDBackprop):
    torch.manual_seed(0)
    learner = Learner(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)), rule, torch.zeros(2, 5))
    learner((torch.randn(6, 5), torch.arange(6) % 4)).value.backward()
    params = dict(learner.named_parameters())
    edited = learner.edited(params, {name: p.grad for name, p in params.items()}, Progress(0))
    sides = ("U", "V") if rule.project else ()
    assert {*edited} == {f"network.{layer}.{side}" for layer in (0, 2) for side in sides}


class Choosing(ComparesClients, Backprop):
    """Chooses, by comparison, and gives feedback to no layer."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def compares_before(self, number):
        return number == 1

    def candidates(self, network):
        return ["0", "2"]

    def chosen(self, alike):
        return sorted(alike)[:1]

    def switch(self, network, names):
        self.asked.append([*names])


def test_any_rule_that_compares_clients_is_asked_before_a_round():
    module = trained(rule=Choosing())
    assert [(s["round"], s["chosen"]) for s in module.selections] == [(1, ["0"])]
    assert module.rule.asked == [["0"]]


def test_a_rule_that_compares_clients_needs_a_federation():
    with pytest.raises(ValueError, match="Choosing chooses layers by comparing clients"):
        Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), Choosing(), 3, (1, 4, 4))


def test_only_the_learner_knows_how_tensors_of_network_and_rule_are_prefixed():
    joined = ("network.", "rule.")
    for folder in ("lit_fa/rules", "lit_fa/layers", "lit_fa/modules", "lit_fa/federated", "lit_fa/flower", "callbacks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            found = [n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)]
            found = [text for text in found if isinstance(text, str) and text.startswith(joined)]
            seeds = ["network."] * (file.name == "feedback_alignment.py")  # the name of a published random draw
            assert found == seeds, f"{file.relative_to(ROOT)}: {found}"


@pytest.mark.parametrize(("number", "end"), [(2, "t1"), (8, "t7"), (9, "t7 and 1 more")])
def test_at_most_eight_uncovered_tensors_are_named_and_the_others_counted(number: int, end: str):
    names = [f"t{i}" for i in range(number)]
    with pytest.raises(UserError, match=rf"^Not reached: t0.*{end}\. Remove them\. "):
        refuse("Not reached", names, "Remove them.", uncovered="raise")
