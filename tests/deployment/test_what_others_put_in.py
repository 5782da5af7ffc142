"""Export keeps what others put into a network: their hooks, their classes, their normalisation of weights."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_fa.deployment.files import check, write
from lit_fa.deployment.simplify import outputs, simplified
from lit_fa.errors import UserError
from lit_fa.layers.factored import FactoredLayer
from lit_fa.layers.feedback import FeedbackLayer
from lit_fa.modules import Learner
from lit_fa.rules import FLFA, Backprop, DirectFeedbackAlignment, FeedbackAlignment, SVDBackprop
from tests.adversarial import HARMLESS, Shared

RULES = {
    "backprop": Backprop,
    "fa": FeedbackAlignment,
    "detour": lambda: FeedbackAlignment(backend="detour"),
    "dfa": DirectFeedbackAlignment,
    "svd": lambda: SVDBackprop(dense="unfactorable"),
    "off": lambda: FLFA("lowest:1"),
}
X = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu() + x


class ScaledNorm(nn.BatchNorm1d):
    def forward(self, x):
        return 3 * super().forward(x)


def with_hook(network: nn.Module, name: str, kind: str) -> nn.Module:
    module = network.get_submodule(name)
    if kind == "forward":
        module.register_forward_hook(lambda _m, _a, out: out.tanh() * 2)
    elif kind == "with_kwargs":
        module.register_forward_hook(lambda _m, _a, _k, out: out.tanh() * 2, with_kwargs=True)
    else:
        module.register_forward_pre_hook(lambda _m, args: (args[0] * 2 + 1,))
    return network


def plain(inside: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), inside or nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5))


def normalised(norm: nn.Module) -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 8), norm, nn.Tanh(), nn.Linear(8, 5))
    network(4 * X + 3)
    return network


NETWORKS = {
    "own_forward": lambda: plain(OwnForward(8, 8)),
    **{
        f"{kind}_hook_on_{name or 'network'}": lambda kind=kind, name=name: with_hook(plain(), name, kind)
        for kind in ("forward", "with_kwargs", "pre")
        for name in ("2", "")
    },
    **{name: HARMLESS[name][0] for name in HARMLESS if name.startswith(("weight_norm", "spectral_norm"))},
    "own_batch_norm": lambda: normalised(ScaledNorm(8)),
    "hook_on_batch_norm": lambda: with_hook(normalised(nn.BatchNorm1d(8)), "1", "forward"),
    "hook_before_batch_norm": lambda: with_hook(normalised(nn.BatchNorm1d(8)), "0", "forward"),
    "pre_hook_on_batch_norm": lambda: with_hook(normalised(nn.BatchNorm1d(8)), "1", "pre"),
    "batch_norm_of_the_batch": lambda: normalised(nn.BatchNorm1d(8, track_running_stats=False)),
}


def learner(rule: str, network: str) -> Learner:
    torch.manual_seed(0)
    return Learner(NETWORKS[network](), RULES[rule](), X[:2])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule", RULES)
def test_outputs_are_those_of_the_network_before_anything_was_taken_out(rule: str, network: str):
    made = learner(rule, network)
    made((X, torch.arange(7) % 5)).value.backward()
    modes = [m.training for m in made.modules()]
    expected = copy.deepcopy(made.network).eval()(X) if "hook" not in network else outputs(made.network, X)
    exported = simplified(made.network, X[:3])
    assert (exported(X) - expected).abs().max() < 1e-5
    assert not [m for m in exported.modules() if isinstance(m, FactoredLayer | FeedbackLayer)]
    assert [m.training for m in made.modules()] == modes


@pytest.mark.parametrize("name", ["own_forward", "forward_hook_on_2", "weight_norm", "spectral_norm_by_a_hook"])
@pytest.mark.parametrize("rule", ["fa", "dfa"])
def test_the_written_file_is_that_network_too(tmp_path: Path, rule: str, name: str):
    made = learner(rule, name)
    path = tmp_path / "network.pt2"
    write(simplified(made.network, X), X, path)
    assert check(path, X, outputs(made.network, X)) < 1e-5


def test_classes_are_those_that_were_there_before_the_rule():
    made = simplified(learner("fa", "own_forward").network, X)
    assert [type(m) for m in made] == [nn.Linear, nn.Tanh, OwnForward, nn.Tanh, nn.Linear]


def test_a_module_under_two_names_is_simplified_under_both():
    network = Learner(Shared(), SVDBackprop(), X[:2]).network
    made = simplified(network, X)
    assert made.a is made.b
    assert type(made.a) is nn.Linear
    assert (made(X) - network.eval()(X)).abs().max() < 1e-5


def test_a_layer_that_runs_twice_keeps_its_normalisation():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.other = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6)

        def forward(self, x):
            return self.other(self.layer(self.norm(self.layer(x)).tanh()))

    network = Twice()
    network(4 * X + 3)
    made = simplified(network, X)
    assert (made(X) - network.eval()(X)).abs().max() < 1e-5
    assert isinstance(made.norm, nn.BatchNorm1d)


def test_dropout_that_is_on_in_evaluation_is_refused():
    class Always(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 0.5, training=True)

    with pytest.raises(UserError, match="draws random numbers in evaluation mode"):
        simplified(plain(Always()), X)


def test_a_file_of_another_network_is_refused_and_removed(tmp_path: Path):
    torch.manual_seed(0)
    one, other, path = plain().eval(), plain().eval(), tmp_path / "network.pt2"
    write(other, X, path)
    with pytest.raises(UserError, match="outputs of the file differ from those of the trained network"):
        check(path, X, outputs(one, X))
    assert not path.exists()
