"""What is tied stays tied and what is frozen stays frozen when layers are changed; otherwise it is refused by name."""

import pytest
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.layers import feedback_layers
from lit_fa.layers.factor_network import apply_svd
from lit_fa.layers.factored import FactoredLayer, factor
from lit_fa.modules import Learner
from lit_fa.rules import FeedbackAlignment, KolenPollackFeedback, Pruning, SVDBackprop, SVDSpaceAlignment
from lit_fa.rules.base import Progress
from tests.adversarial import HARMLESS, Shared, TiedWeight, frozen_bias, frozen_weight

X = torch.zeros(2, 6)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(5, 6, generator=g), torch.randint(5, (5,), generator=g)


def frozen(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("rule", [SVDBackprop, lambda: SVDSpaceAlignment("sequential"), SVDSpaceAlignment])
def test_a_frozen_bias_or_weight_stays_frozen_in_factors(rule):
    for build, expected in ((frozen_bias, {"2.bias"}), (frozen_weight, {"2.U", "2.s", "2.V"})):
        assert frozen(Learner(build(), rule(), X).network) == expected


def test_a_frozen_layer_in_factors_is_neither_retracted_nor_pruned():
    rule = SVDBackprop(retraction="newton_schulz", pruning=Pruning(energy=0.5, every=1, after=0.0, floor=1, keep=[]))
    learner = Learner(frozen_weight(), rule, X)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    changed, _ = learner.evolved(
        {n: p.detach() for n, p in learner.named_parameters()},
        dict(learner.named_buffers()),
        Progress(4, 0, 8, 2, epoch_ends=True),
    )
    assert rule.pruned == ["0", "4"]
    assert not [name for name in changed if name.startswith("network.2.")]
    assert any(not torch.equal(changed[name], before[name]) for name in changed)


def test_the_feedback_of_a_frozen_weight_is_not_trained_either():
    learner = Learner(frozen_weight(), FeedbackAlignment(KolenPollackFeedback()), X)
    assert frozen(learner) == {"network.2.weight", "network.2.feedback.weight"}


@pytest.mark.parametrize("backend", ["fused", "detour"])
def test_the_feedback_of_a_weight_that_is_frozen_after_install_gets_no_gradient(backend: str):
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5))
    learner = Learner(network, FeedbackAlignment(KolenPollackFeedback(), backend=backend), X)
    layer = network[2]
    layer.weight.requires_grad_(False)
    learner.rule.surrogate(learner.network, batch(), learner.criterion).value.backward()
    assert layer.feedback.weight.requires_grad
    assert layer.feedback.weight.grad is None
    assert network[0].weight.grad.abs().sum() > 0


def test_a_module_under_two_names_is_one_factored_module_under_both():
    network = Shared()
    expected = network(batch()[0])
    apply_svd(network, X)
    assert network.a is network.b
    assert isinstance(network.a, FactoredLayer)
    assert (network(batch()[0]) - expected).abs().max() < 1e-5


def test_a_module_under_two_names_has_one_feedback_under_both():
    learner = Learner(Shared(), FeedbackAlignment(), X)
    assert learner.network.a is learner.network.b
    assert [*feedback_layers(learner.network)] == ["a", "head"]


@pytest.mark.parametrize("rule", [SVDBackprop, SVDSpaceAlignment])
def test_tied_weights_are_not_factored_apart(rule):
    with pytest.raises(UserError, match=r"a: it shares a tensor with b.*dense: unfactorable"):
        Learner(TiedWeight(), rule(), X)
    learner = Learner(TiedWeight(), SVDBackprop(dense="unfactorable"), X)
    assert learner.network.a.weight is learner.network.b.weight


def test_feedback_leaves_tied_weights_tied():
    network = Learner(TiedWeight(), FeedbackAlignment(), X).network
    assert network.a.weight is network.b.weight
    assert [*feedback_layers(network)] == ["a", "b", "head"]


@pytest.mark.parametrize("source", ["kolen_pollack", "weight_mirror", "adaptive"])
def test_feedback_that_follows_the_weight_is_refused_where_weights_are_tied(source: str):
    with pytest.raises(UserError, match=r"follows the weight of each layer, and that of [ab] is.*source: random"):
        Learner(TiedWeight(), FeedbackAlignment(source), X)


NORMALISED = [name for name in HARMLESS if "_norm" in name and "layer" not in name]


@pytest.mark.parametrize("source", ["kolen_pollack", "weight_mirror", "adaptive"])
@pytest.mark.parametrize("name", NORMALISED)
def test_feedback_that_follows_the_weight_is_refused_where_the_weight_is_made_of_others(name: str, source: str):
    with pytest.raises(UserError, match=r"follows the weight of each layer, and that of 1 is.*source: random"):
        Learner(HARMLESS[name][0](), FeedbackAlignment(source), X)


@pytest.mark.parametrize("name", NORMALISED)
def test_a_weight_made_of_others_is_not_factored(name: str):
    with pytest.raises(UserError, match=r"1: its weight is computed from other tensors"):
        Learner(HARMLESS[name][0](), SVDBackprop(), X)


def test_a_parametrised_layer_with_its_weight_for_feedback_is_backprop():
    torch.manual_seed(0)
    build, _ = HARMLESS["weight_norm"]
    network, (x, y) = build(), batch()
    expected = torch.autograd.grad(nn.functional.cross_entropy(network(x), y), [*network.parameters()])
    learner = Learner(network, FeedbackAlignment("snapshot"), X)
    found = torch.autograd.grad(learner((x, y)).value, [*network.parameters()])
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(found, expected, strict=True))


def test_hooks_of_a_layer_survive_its_factoring():
    network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5))
    network[0].register_forward_hook(lambda _m, _a, out: 2 * out)
    network[0].register_forward_pre_hook(lambda _m, args: (args[0] + 1,))
    expected = network(batch()[0])
    factor(network, "0")
    assert (network(batch()[0]) - expected).abs().max() < 1e-5
