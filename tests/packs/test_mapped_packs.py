"""Mapped lanes: runs without explicit steps as one program by vmap, in float64 those of the runs alone."""

import copy
import json
import logging
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from lit_fa import rules
from lit_fa.packs import Lane, Pack
from lit_fa.packs.mapped import MappedGradient
from lit_fa.rules.learner import Learner
from lit_fa.rules.mapping import statics
from lit_fa.written.workspace import Workspace
from tests.packs.test_packs import MIXED, body, config, read, results

pytestmark = pytest.mark.usefixtures("one_thread")
SSA = "lit_fa.rules.SVDSpaceAlignment"
CONV = {"network": "lenet", "image_shape": [1, 28, 28], "network_args": {}}
RULES = {
    "BP": "lit_fa.rules.Backprop",
    "FA": "lit_fa.rules.FeedbackAlignment",
    "DFA": "lit_fa.rules.DirectFeedbackAlignment",
    "SSA": SSA,
    "FWM": "lit_fa.rules.FeedbackWeightMatching",
    "PredSim": "lit_fa.rules.PredSim",
}


def case(name: str, seed: int, **changes: object) -> dict:
    rule = {"class_path": RULES[name], "init_args": {} if name in ("BP", "FA") else {"seed": seed}}
    network = {} if name == "FWM" else CONV
    images = {"n_train": 60, "n_test": 20, "val_size": 20, "batch_size": 5}
    shape = {} if name == "FWM" else {"image_shape": [1, 28, 28]}
    usual = {"precision": "64-true", "callbacks": [], "max_epochs": 1}
    trainer = usual | (changes.pop("trainer", None) or {})
    return config(seed, rule, trainer=trainer, data=images | shape, **network, **changes)


def mapped(folder: Path, runs: dict[str, dict], maps: bool = True) -> dict[str, dict]:
    Pack([Lane(partial(body, folder / f"{name}.json", chosen)) for name, chosen in runs.items()], maps=maps).run()
    return read(folder)


def numbers(record: dict) -> dict[str, float]:
    curves = {f"{key} {place}": point[2] for key, c in record["curves"].items() for place, point in enumerate(c)}
    return record["metrics"] | curves


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "FWM" else pytest.mark.slow) for n in RULES])
def test_mapped_runs_are_those_alone_but_for_rounding(tmp_path, name: str):
    runs = {f"{seed}": case(name, seed) for seed in range(3)}
    together = mapped(tmp_path / "mapped", runs)
    alone = mapped(tmp_path / "alone", runs, maps=False)  # by autograd, bit for bit
    assert {record["packed"]["lanes"] for record in together.values()} == {3}
    assert {record["packed"]["step"] for record in together.values()} == {"mapped"}
    for seed, record in together.items():
        assert numbers(record) == pytest.approx(numbers(alone[seed]), rel=1e-5)  # curves have six digits


def convolutional() -> torch.nn.Sequential:
    first = [torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU()]
    return torch.nn.Sequential(*first, torch.nn.Flatten(), torch.nn.Linear(144, 10))


def dense() -> torch.nn.Sequential:
    layers = [torch.nn.Linear(36, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)]
    return torch.nn.Sequential(torch.nn.Flatten(), *layers)


class Scaled(torch.nn.Module):
    """A module whose output depends on what is deep in an attribute, in a function or in a partial."""

    def __init__(self, settings: object):
        super().__init__()
        self.settings = settings

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _closed_over(value: float):
    return lambda x: value * x


DEEP = {
    "list": lambda value: [[[[[value]]]]],
    "set": lambda value: {value},
    "partial": lambda value: partial(torch.mul, value),
    "function": _closed_over,
    "unknown": lambda value: iter([value]),
}


@pytest.mark.parametrize("kind", DEEP)
def test_learners_whose_attributes_differ_are_not_mapped_together(kind: str):
    def learner(value: float) -> Learner:
        network = torch.nn.Sequential(Scaled(DEEP[kind](value)), torch.nn.Flatten(), torch.nn.Linear(36, 10))
        return Learner(network, rules.Backprop(), torch.zeros(2, 1, 6, 6))

    assert statics(learner(1.0)) != statics(learner(2.0))
    assert kind == "unknown" or statics(learner(1.0)) == statics(learner(1.0))


class Kept:
    """Learners of different seeds on random images, and their mapped and own gradients, in float64."""

    def __init__(self, make, network, k: int):
        self.learners, self.x, self.y = [], torch.rand(k, 6, 1, 6, 6).double(), torch.arange(6).expand(k, 6)
        for seed in range(k):
            torch.manual_seed(seed)
            self.learners.append(Learner(network(), make(seed), torch.zeros(2, 1, 6, 6)).double())
        assert len({statics(learner) for learner in self.learners}) == 1

    def mapped(self, lanes: list[int]) -> list[dict[str, torch.Tensor]]:
        learners = [copy.deepcopy(self.learners[lane]) for lane in lanes]
        own = [params | buffers for params, buffers in (learner.tensors() for learner in learners)]
        tensors = {name: torch.stack([t[name].detach() for t in own]) for name in own[0]}
        grads = {n: torch.empty_like(tensors[n]) for n, p in learners[0].named_parameters() if p.requires_grad}
        MappedGradient(learners)(tensors, grads, [*self.x[lanes]], self.y[lanes], Workspace(self.x))
        running = {n: t for n, t in tensors.items() if "running" in n}
        return [{n: t[lane] for n, t in (grads | running).items()} for lane in range(len(lanes))]

    def own(self, lane: int) -> dict[str, torch.Tensor]:
        learner = copy.deepcopy(self.learners[lane])
        learner((self.x[lane], self.y[lane])).value.backward()
        running = {n: t for n, t in learner.named_buffers() if "running" in n}
        return {n: p.grad for n, p in learner.named_parameters() if p.requires_grad} | running


MAKERS = {
    "BP": (lambda seed: rules.Backprop(), convolutional),
    "FA": (lambda seed: rules.FeedbackAlignment(rules.RandomFeedback(seed=seed)), convolutional),
    **{
        name: (partial(lambda name, seed: getattr(rules, name)(seed=seed), name), network)
        for network, names in {
            convolutional: ("DirectFeedbackAlignment", "SVDSpaceAlignment", "PredSim", "CCL"),
            dense: ("AugLocal", "FeedbackWeightMatching", "DLL", "EBD", "PEPITA", "MonoForward"),
        }.items()
        for name in names
    },
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_mapped_lane_is_the_learner_alone_whatever_the_number_of_lanes(name: str):
    kept = Kept(*MAKERS[name], 4)
    four, two, one = kept.mapped([0, 1, 2, 3]), kept.mapped([1, 2]), kept.mapped([1])
    for lane in range(4):
        for name, value in kept.own(lane).items():
            torch.testing.assert_close(four[lane][name], value, rtol=1e-12, atol=1e-12)
    for name, value in four[1].items():
        torch.testing.assert_close(two[0][name], value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one[0][name], value, rtol=1e-12, atol=1e-12)


def test_a_lane_that_is_nan_changes_no_other():
    kept = Kept(*MAKERS["BP"], 3)
    before = kept.mapped([0, 1, 2])
    kept.x[1] = math.nan
    after = kept.mapped([0, 1, 2])
    assert after[1]["network.0.weight"].isnan().all()
    assert all(torch.equal(before[lane][name], value) for lane in (0, 2) for name, value in after[lane].items())


def test_learners_that_differ_in_more_than_tensors_are_not_mapped_together():
    def learner(rule):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
        return Learner(network, rule, torch.zeros(2, 12))

    assert statics(learner(rules.PredSim(seed=1))) == statics(learner(rules.PredSim(seed=2)))
    assert statics(learner(rules.PredSim(beta=0.5))) != statics(learner(rules.PredSim(beta=0.9)))
    one, other = (learner(rules.ForwardForward(seed=seed, label="pixels")) for seed in (1, 2))
    assert statics(one) != statics(other)  # its wrong labels are drawn in every step


def test_runs_with_dropout_are_not_mapped_and_take_their_own_steps(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lit_fa.packs")
    drops = {n: config(n, network_args={"hidden": [12], "dropout": 0.5}) for n in (1, 2)}
    runs = {"fa": MIXED["fa"], "sign": MIXED["sign"]} | {f"dropout {n}": chosen for n, chosen in drops.items()}
    together = mapped(tmp_path / "mapped", runs)
    assert results(together) == results(mapped(tmp_path / "turns", runs, maps=False))
    assert {together[f"dropout {n}"]["packed"]["step"] for n in drops} == {"autograd"}
    assert sum("draws random numbers" in line for line in caplog.messages) >= 2
    assert json.loads((tmp_path / "mapped" / "fa.json").read_text())["packed"]["step"] == "written"
