"""The network that is run computes what the trained one computes, with less."""

from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_fa.deployment.files import run, write
from lit_fa.deployment.measure import compared, dense_twin
from lit_fa.deployment.simplify import simplified
from lit_fa.errors import UserError
from lit_fa.layers.factored import FactoredLayer, factored_layers
from lit_fa.layers.feedback import FeedbackLayer
from lit_fa.modules import Learner
from lit_fa.networks import create_network
from lit_fa.rules import (
    CCL,
    DLL,
    PEPITA,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    LearningRule,
    MonoForward,
    PredSim,
    SVDBackprop,
    SVDSpaceAlignment,
)
from tests.grids import slow_unless
from tests.small_networks import NETWORKS

RULES = {
    "backprop": Backprop,
    "fa": FeedbackAlignment,
    "dfa": DirectFeedbackAlignment,
    "svd": partial(SVDBackprop, 0.3, dense="unfactorable"),
    "ssa": partial(SVDSpaceAlignment, dense="unfactorable"),
    "sequential": partial(SVDSpaceAlignment, "sequential", rank=0.4, dense="unfactorable"),
}


def learner_and_inputs(rule, network: str) -> tuple[Learner, torch.Tensor]:
    build, shape = NETWORKS[network]
    torch.manual_seed(0)
    x = torch.randn(4, *shape)
    return Learner(build(), rule(), x[:2]).eval(), x


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule", RULES)
def test_outputs_are_those_of_the_trained_network_and_no_rule_is_left(rule: str, network: str):
    learner, x = learner_and_inputs(RULES[rule], network)
    made = simplified(learner.network, x)
    assert (made(x) - learner.network(x)).abs().max() < 1e-5
    assert not [m for m in made.modules() if isinstance(m, FactoredLayer | FeedbackLayer) or m._forward_hooks]
    assert not [m for m in made.modules() if m._forward_pre_hooks]
    assert not [name for name in made.state_dict() if "feedback" in name]
    assert not [p for p in made.parameters() if p.requires_grad]


@pytest.mark.parametrize("rule", [CCL, PEPITA, DLL, MonoForward, PredSim])
def test_no_hook_of_a_rule_is_left(rule: type[LearningRule]):
    learner, x = learner_and_inputs(rule, "mlp")
    made = simplified(learner.network, x)
    assert not [m for m in made.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert (made(x) - learner.network(x)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["conv3_32_64_128", "resnet20_cifar"])
def test_batch_norm_is_folded_after_training_has_moved_its_statistics(name: str):
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    learner = Learner(create_network(name, 10, (3, 32, 32)), SVDSpaceAlignment("sequential", rank=0.3), x[:2])
    for _ in range(3):
        learner((3 * x + 1, torch.arange(8)))
    learner.eval()
    made = simplified(learner.network, x)
    assert not [m for m in made.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert (made(x) - learner.network(x)).abs().max() < 1e-5
    assert all(m.training for m in learner.network.train().modules())  # the original is what it was
    assert factored_layers(learner.network)


def test_an_output_that_is_read_elsewhere_too_keeps_its_normalisation():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.norm, self.out = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

        def forward(self, x):
            h = self.one(x)
            return self.out(h + self.norm(h))

    torch.manual_seed(0)
    network, x = Both(), torch.randn(16, 6)
    network(5 * x + 2)
    made = simplified(network.eval(), x)
    assert isinstance(made.norm, nn.BatchNorm1d)
    assert torch.equal(made(x), network(x))


def test_a_layer_stays_in_two_below_the_parity_rank_and_is_merged_above():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 4))
    x = torch.randn(4, 40)
    learner = Learner(network, SVDBackprop(21), x)  # of 21 x 80 products instead of 1600
    learner.network[2].prune(torch.arange(15))  # masked, not yet taken out
    made = simplified(learner.network, x)
    assert isinstance(made[0], nn.Linear)
    assert [layer.weight.shape for layer in made[2]] == [(15, 40), (40, 15)]
    costs = compared({"dense": dense_twin(learner.network, x), "made": made}, x, rounds=3)
    assert costs["dense"]["macs"] == 1600 + 1600 + 160
    assert costs["made"]["macs"] == 1600 + 15 * 80 + 160


@pytest.mark.parametrize("by", ["macs", "time"])
def test_either_cost_gives_the_same_outputs(by: str):
    learner, x = learner_and_inputs(RULES["sequential"], "small_conv")
    assert (simplified(learner.network, x, by)(x) - learner.network(x)).abs().max() < 1e-5


def test_factors_that_are_not_finite_are_refused():
    learner, x = learner_and_inputs(RULES["svd"], "mlp")
    learner.network[0].s.data[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        simplified(learner.network, x)


@pytest.mark.parametrize(
    ("network", "ending"),
    slow_unless(lambda *case: case != ("mlp", "onnx"), product(["mlp", "residual"], ["onnx", "pt2"])),
)
def test_a_written_file_has_equal_outputs_for_any_batch(tmp_path: Path, network: str, ending: str):
    if ending == "onnx":
        pytest.importorskip("onnxruntime")
    learner, x = learner_and_inputs(RULES["sequential"], network)
    made, path = simplified(learner.network, x), tmp_path / f"network.{ending}"
    write(made, x, path)
    for inputs in (x, x[:1], torch.cat([x, x + 1])):
        assert (run(path, inputs) - learner.network(inputs)).abs().max() < 1e-5


def test_another_ending_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"ends with \.onnx or \.pt2"):
        write(nn.Linear(2, 2), torch.zeros(2, 2), tmp_path / "network.h5")
