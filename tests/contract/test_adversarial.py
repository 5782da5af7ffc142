"""Networks and batches that a rule does not expect: honoured to the last digit, or refused in one line.

What carries error is found without the rule's own coverage: a weight is changed between the forward and the backward
pass. The gradient of the weight itself does not see that; what lies in front of it does, if error went through it.
"""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.modules import Learner
from lit_fa.rules import Does, FeedbackAlignment, ForwardForward, MonoForward
from lit_fa.rules.base import LearningRule
from tests.adversarial import CLASSES, NETWORKS
from tests.cases import OWN_STATE, RULES, Case, cases, rules
from tests.gradients import array, gradients, largest_difference, taken
from tests.small_networks import ByKeyword

STRANGERS = ("lstm", "gru", "multihead_attention", "autograd_function")


class Twice(nn.Module):
    """Two layers in the middle, which may be one, with activations and a dropout that may be shared."""

    def __init__(self, tied: str = "", shared: str = ""):
        super().__init__()
        self.first, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)
        functions = {"function": torch.tanh, "in place": torch.tanh_}
        make = (lambda: functions[shared]) if shared in functions else nn.Tanh
        self.phi_0, self.phi_a, self.phi_b = make(), make(), make()
        self.drop_0, self.drop_a, self.drop_b = nn.Dropout(0.5), nn.Dropout(0.5), nn.Dropout(0.5)
        if tied == "module":
            self.b = self.a
        elif tied == "weight":
            self.b.weight = self.a.weight
        if shared == "activation":
            self.phi_0 = self.phi_a = self.phi_b
        if shared:
            self.drop_0 = self.drop_a = self.drop_b

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop_0(self.phi_0(self.first(x)))
        x = self.drop_a(self.phi_a(self.a(x)))
        return self.head(self.drop_b(self.phi_b(self.b(x))))


def twice(**options: str) -> Twice:
    torch.manual_seed(0)
    return Twice(**options).double()


def installed(rule: LearningRule, network: nn.Module, shape: tuple[int, ...] = (6,)) -> Learner | None:
    """The learner; None where the rule refuses the network, in one line that is more than a name."""
    try:
        return Learner(network, rule, torch.zeros(2, *shape, dtype=torch.float64))
    except UserError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) > 40
    return None


def batch_of(*shape: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(6, *shape, generator=g, dtype=torch.float64), torch.randint(CLASSES, (6,), generator=g)


def drawn_alike(learner: Learner, batch: tuple) -> dict[str, Tensor]:
    """Gradients with the dropout of one seed."""
    torch.manual_seed(3)
    return gradients(learner, batch)


def carrying(learner: Learner, batch: tuple[Tensor, Tensor]) -> set[str]:
    """Names in the network of its own weights that error travels through to something in front of them."""
    with torch.no_grad():  # away from zeros, through which no error comes
        for name, p in learner.named_parameters():
            p += 0.1 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(len(name)))
    expected = drawn_alike(learner, batch)
    weights = {n: p for n, p in learner.network.named_parameters() if p.ndim > 1 and not n.endswith("feedback.weight")}
    return {name for name, weight in weights.items() if carries(learner, batch, name, weight, expected)}


def carries(learner: Learner, batch: tuple, name: str, weight: nn.Parameter, expected: dict[str, Tensor]) -> bool:
    before = weight.detach().clone()
    torch.manual_seed(3)
    value = learner(batch).value
    weight.data.copy_(before.sign() * before.abs().flip(1))  # signs and norms of rows, which feedback may follow, stay
    value.backward()
    weight.data.copy_(before)
    own = f"network.{name.rpartition('.')[0]}."
    found = {n: g for n, g in taken(learner).items() if not n.startswith(own)}
    return largest_difference(found, {n: expected[n] for n in found}) > 1e-12


@pytest.mark.parametrize("network", STRANGERS)
@pytest.mark.parametrize("rule", rules("strangers", distinct=True, thin=True, more=OWN_STATE))
def test_what_carries_error_by_its_own_weight_is_named_and_under_feedback_alignment_refused(rule: str, network: str):
    build, shape = NETWORKS[network]
    torch.manual_seed(0)
    learner = installed(RULES[rule][0](), build().double(), shape)
    if learner is None:
        return
    found = carrying(learner, batch_of(*shape))
    assert found <= {*learner.coverage.transported}
    assert not (found and isinstance(learner.rule, FeedbackAlignment))


@pytest.mark.parametrize("tied", ["module", "weight"])
@pytest.mark.parametrize("rule", rules("tied", distinct=True, thin=True, more=OWN_STATE))
def test_what_is_tied_learns_the_sum_and_stays_tied(rule: str, tied: str):
    network = twice(tied=tied).eval()
    apart = copy.deepcopy(network)
    apart.b = copy.deepcopy(apart.b)
    one = installed(RULES[rule][0](), network)
    if one is None:
        return
    left = {"dense": one.rule.dense_layers} if getattr(one.rule, "dense_layers", None) else {}
    two = installed(RULES[rule][0](**left), apart)
    # what is stored of both paths, which are one
    state = one.state_dict()
    two.load_state_dict({k: state.get(k, state.get(k.replace("network.b.", "network.a."))) for k in two.state_dict()})
    batch = batch_of(6)
    found, expected = gradients(one, batch), gradients(two, batch)
    for name in [name for name in expected if name not in found]:
        expected[name.replace("network.b.", "network.a.")] += expected.pop(name)
    assert largest_difference(found, expected) < 1e-14
    assert (network.a is network.b) == (tied == "module")
    assert tied == "module" or network.a.weight is network.b.weight


@pytest.mark.parametrize("name", ["a.bias", "a.weight"])
@pytest.mark.parametrize("rule", rules("frozen", distinct=True, thin=True, more=OWN_STATE))
def test_what_is_frozen_stays_and_all_else_learns_as_if_it_were_not(rule: str, name: str):
    network = twice().eval()
    network.get_parameter(name).requires_grad_(False)
    learner, whole = installed(RULES[rule][0](), network), installed(RULES[rule][0](), twice().eval())
    if learner is None:
        return
    batch, layer = batch_of(6), network.get_submodule(name.rpartition(".")[0])
    still = {n: p.clone() for n, p in layer.named_parameters(recurse=False) if not p.requires_grad}
    assert still
    found, expected = gradients(learner, batch), gradients(whole, batch)
    assert largest_difference(found, {n: expected[n] for n in found}) < 1e-15
    assert not {f"network.{name.rpartition('.')[0]}.{n}" for n in still} & {*found}
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        learner(batch).value.backward()
        optimizer.step()
    assert largest_difference({n: layer.get_parameter(n).detach() for n in still}, still) == 0


@pytest.mark.parametrize("rule", rules("shared_dropout", distinct=True))
def test_a_dropout_that_is_shared_draws_as_two_would(rule: str):
    make = RULES[rule][0]
    shared = installed(make(), twice(shared="dropout"))
    if shared is None:
        return
    # a dropout that serves twice is no place to cut: the cut lies in front of it
    named = Does.STREAMS in shared.rule.does or isinstance(shared.rule, MonoForward)
    cuts = {"blocks": ["phi_0", "phi_a", "phi_b"]} if named else {}
    apart = installed(make(**cuts), twice())
    assert largest_difference(drawn_alike(shared, batch_of(6)), drawn_alike(apart, batch_of(6))) == 0


@pytest.mark.parametrize("shared", ["activation", "function"])
@pytest.mark.parametrize("rule", rules("activations", distinct=True))
def test_no_block_ends_in_front_of_its_activation(rule: str, shared: str):
    """A block is cut behind its activation, or delta would lack its derivative, and goodness be of other numbers."""
    learner = installed(RULES[rule][0](), twice(shared=shared).eval())
    if learner is None:
        return
    plain = installed(RULES[rule][0](), twice().eval())
    assert largest_difference(gradients(learner, batch_of(6)), gradients(plain, batch_of(6))) == 0


def test_a_cut_in_front_of_an_activation_is_refused_with_the_remedy_unless_it_is_named():
    rule = RULES["dfa_dense"][0]
    for shared in ("activation", "function", "in place"):
        with pytest.raises(UserError, match=r"activation after first, a, b is not a module that runs once.*blocks: \["):
            Learner(twice(shared=shared), rule(), torch.zeros(2, 6, dtype=torch.float64))
    assert installed(rule(blocks=["first", "a"]), twice(shared="function")) is not None


@pytest.mark.parametrize("case", cases("mlp", "small_conv", suite="batch_of_one", distinct=True))
def test_gradients_of_one_sample_equal_a_literal_reference(case: Case):
    learner, (x, y) = case.learner(), case.batch(1)
    expected = case.reference(learner, array(x), array(y))
    assert largest_difference(gradients(learner, (x, y)), expected) < case.tolerance


@pytest.mark.parametrize("rule", rules("flat_inputs", distinct=True))
def test_flat_inputs_learn_as_the_images_do(rule: str):
    def learner(*shape: int) -> Learner:
        torch.manual_seed(0)
        layers = [nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, CLASSES)]
        return installed(RULES[rule][0](), nn.Sequential(nn.Flatten(), *layers).double(), shape)

    images, labels = batch_of(1, 6, 6)
    flat = gradients(learner(36), (images.flatten(1), labels))
    assert largest_difference(flat, gradients(learner(1, 6, 6), (images, labels))) == 0


@pytest.mark.parametrize("case", cases("mlp", "small_conv", distinct=True, thin=True))
def test_layers_that_get_their_input_by_keyword_learn_as_others_do(case: Case):
    by_keyword = replace(case, network=lambda: ByKeyword(*case.network()))
    one, other = (gradients(c.learner(), c.batch()) for c in (case, by_keyword))
    assert largest_difference(one, other) == 0


def test_a_weight_of_several_blocks_cannot_wait_for_its_turn():
    example = torch.zeros(2, 6, dtype=torch.float64)
    with pytest.raises(UserError, match=r"a\.weight belongs to several blocks: set schedule: simultaneous"):
        Learner(twice(tied="weight"), ForwardForward(schedule="greedy"), example)
    learner = Learner(twice(tied="weight"), ForwardForward(), example)
    both = gradients(learner, batch_of(6))["network.a.weight"]
    alone = gradients(Learner(twice(), ForwardForward(), example), batch_of(6))["network.a.weight"]
    assert both.norm() > 0
    assert not torch.equal(both, alone)
