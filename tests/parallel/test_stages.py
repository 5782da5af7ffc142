"""Stages of a network in one process: which rules have them, how they are split, what each trains."""

from typing import Any

import pytest
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.parallel.examine import Found, examine, owner_of_buffer
from lit_fa.parallel.stages import Plan, balanced, plan
from lit_fa.rules import Backprop, DirectFeedbackAlignment, ForwardForward, LearningRule, PredSim
from lit_fa.rules.learner import Learner
from tests.cases import RULES
from tests.contract.training import IMAGE, NETWORKS
from tests.small_networks import CLASSES

ERROR = ("dfa", "fwm", "ssa_random", "ssa_product", "ssa_per", "ssa_layer", "ssa_pruned")
NOTHING = ("drtp", "ff_", "predsim", "pred", "sim", "auglocal", "mono_forward")
REFUSED = ("ff_hard", "mono_forward_joint")  # read the head's output before the blocks; sends errors between blocks


def expected(name: str) -> str:
    if name.startswith(REFUSED):
        return "chain"
    return "error" if name.startswith(ERROR) else "nothing" if name.startswith(NOTHING) else "chain"


def staged(rule: LearningRule, stages: int, kind: str = "mlp", **options: Any) -> tuple[Learner, Plan, Found]:
    learner = Learner(NETWORKS[kind](0.5).double(), rule, torch.zeros(2, *IMAGE).double())
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(6, *IMAGE, generator=generator).double(), torch.randint(CLASSES, (6,), generator=generator)
    split = plan(learner, batch, stages, **options)
    return learner, split, examine(learner, split, batch)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_stages_with_the_gradients_of_the_whole_network_or_is_refused(name: str):
    if expected(name) == "chain":
        with pytest.raises(UserError, match=r"set trainer\.strategy: ddp"):
            staged(RULES[name][0](), 3)
    else:
        assert staged(RULES[name][0](), 3)[2].error == (expected(name) == "error")


def test_every_parameter_has_one_stage_and_the_network_is_left_as_it_was():
    learner, split, found = staged(PredSim(), 2, "conv")
    assert found.owners.keys() == {name for name, p in learner.named_parameters() if p.requires_grad}
    for name, stage in found.owners.items():
        assert split.stage_of(name.removeprefix("network.")) in (stage, None)  # None: an auxiliary network's
    assert not any("forward" in vars(module) for module in learner.modules())
    assert learner.rule.taps.absent == frozenset()
    assert all(p.grad is None for p in learner.parameters())


def test_dropout_is_noticed_because_it_draws():
    assert staged(DirectFeedbackAlignment(), 2)[2].random
    quiet = Learner(NETWORKS["mlp"](0.0), DirectFeedbackAlignment(), torch.zeros(2, *IMAGE))
    batch = torch.randn(4, *IMAGE), torch.zeros(4, dtype=torch.int64)
    assert not examine(quiet, plan(quiet, batch, 2), batch).random


def test_a_buffer_belongs_to_the_stage_of_its_module():
    _, split, found = staged(ForwardForward(), 2, "norm")
    assert owner_of_buffer("network.0.1.running_mean", split, found.owners) == 0
    assert owner_of_buffer("rule.steps", split, found.owners) is None


def test_the_costliest_stage_costs_as_little_as_possible():
    assert balanced([3, 3, 3, 3], 2) == [2, 4]
    assert balanced([9, 1, 1, 1], 2) == [1, 4]
    assert balanced([1, 1, 1], 3) == [1, 2, 3]


def test_stages_end_where_they_are_told():

    assert staged(DirectFeedbackAlignment(), 2, splits=["5"])[1].ends == (6, 10)


@pytest.mark.parametrize(
    ("splits", "stages", "said"),
    [
        (["5"], 3, "splits has 1 names for 3 stages"),
        (["4"], 2, "no block of the rule ends at 4"),
        (["8", "3"], 3, "in the order of the network"),
        (None, 9, "4 blocks are too few for 9 stages"),
    ],
)
def test_impossible_splits_are_refused(splits: list[str] | None, stages: int, said: str):
    with pytest.raises(UserError, match=said):
        staged(DirectFeedbackAlignment(), stages, splits=splits)


class Shortcut(nn.Module):
    """The input reaches the head past the blocks; the head runs twice if asked."""

    def __init__(self, twice: bool):
        super().__init__()
        self.a, self.b, self.head, self.twice = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3), twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.b(torch.tanh(self.a(x))))
        return self.head(y) if not self.twice else self.head(y) + self.head(x)


def test_a_module_that_runs_twice_is_refused_by_name():
    learner = Learner(Shortcut(True), DirectFeedbackAlignment(blocks=["a", "b"]), torch.zeros(2, 4))
    batch = torch.randn(4, 4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UserError, match="head runs more than once"):
        plan(learner, batch, 2)


def test_functions_between_the_blocks_run_in_every_stage():
    learner = Learner(Shortcut(False), DirectFeedbackAlignment(blocks=["a", "b"]), torch.zeros(2, 4))
    batch = torch.randn(4, 4), torch.zeros(4, dtype=torch.int64)
    assert len(examine(learner, plan(learner, batch, 3), batch).owners) == 6


def test_the_refusal_of_a_chain_names_the_remedy():
    with pytest.raises(UserError, match=r"Backprop needs more back .* torch\.distributed\.pipelining, or take a rule"):
        staged(Backprop(), 2)
