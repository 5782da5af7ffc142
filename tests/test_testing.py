"""`lit_fa.testing.check_rule` passes our rules and names what a wrong one breaks."""

import pytest
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.rules import Backprop, LearningRule, Surrogate
from lit_fa.testing import ContractError, check_rule
from lit_fa.testing.__main__ import main
from lit_fa.testing.contracts import CONTRACTS
from lit_fa.testing.networks import NETWORKS
from tests.cases import OPTED_OUT, RULES

MLP = {"mlp": NETWORKS["mlp"]}
COMPILES = "it_compiles_without_a_graph_break"
# suite of our contract tests to the contract that says the same
SAME = {
    "vmap": "learners_map", "global_seed": "the_global_seed_does_not_decide_the_rule",
    "accumulation": "two_half_batches_are_one_batch", "trains": "training_lowers_the_loss",
}  # fmt: skip
OURS = ["backprop", "kolen_pollack", "weight_mirror", "dfa_dense", "ff_threshold", "predsim", "pepita", "mono_forward"]


@pytest.mark.parametrize("name", OURS)
def test_our_rules_keep_every_contract(name):
    make, reference = RULES[name]
    skip = [contract for suite, contract in SAME.items() if name in OPTED_OUT.get(suite, {})]
    outcomes = check_rule(make(), reference, networks=MLP, skip=[*skip, COMPILES])
    assert {o.contract for o in outcomes if o.result == "passed"} >= {
        "gradients_equal_the_reference",
        "a_learner_pickles",
    }


class Wrong(LearningRule):
    """Backpropagation with one fault."""

    def __init__(self, fault: str):
        super().__init__()
        self.fault, self.calls = fault, 0

    def install(self, network, example, criterion):
        if self.fault == "draws from the global seed":
            self.register_buffer("feedback", torch.randn(3))
        if self.fault == "has a parameter that nothing trains":
            self.lost = nn.Parameter(torch.zeros(1))
        if self.fault == "cannot be pickled":
            self.secret = lambda: None
        return super().install(network, example, criterion)

    def surrogate(self, network, batch, criterion):
        value, loss, logits = super().surrogate(network, batch, criterion)
        self.calls += 1
        if self.fault == "counts its calls":
            value = value * (1 + self.calls)
        if self.fault == "sums without saying so":
            value = value * len(batch[1])
        if self.fault == "climbs":
            value = -value
        return Surrogate(value, value if self.fault == "keeps the graph in loss" else loss, logits)


FAULTS = {
    "draws from the global seed": "the_global_seed_does_not_decide_the_rule",
    "has a parameter that nothing trains": "every_trained_parameter_has_a_gradient",
    "cannot be pickled": "a_learner_pickles",
    "counts its calls": "the_same_batch_gives_the_same_gradients",
    "sums without saying so": "two_half_batches_are_one_batch",
    "climbs": "training_lowers_the_loss",
    "keeps the graph in loss": "loss_and_logits_carry_no_graph",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_its_contract(fault):
    with pytest.raises(ContractError) as caught:
        check_rule(Wrong(fault), networks=MLP, skip=[COMPILES])
    assert FAULTS[fault] in [o.contract for o in caught.value.outcomes if o.result == "failed"]


def test_a_wrong_reference_is_a_failure():
    def doubled(learner, x, y):
        return {name: 2 * g for name, g in RULES["backprop"][1](learner, x, y).items()}

    with pytest.raises(ContractError, match="gradients and reference"):
        check_rule(Backprop(), doubled, networks=MLP, skip=[*CONTRACTS][1:])


def test_a_network_that_the_rule_refuses_is_not_checked():
    make, _ = RULES["pepita"]
    nets = {"residual": NETWORKS["residual"], "mlp": NETWORKS["mlp"]}
    outcomes = check_rule(make(), networks=nets, skip=[*CONTRACTS][1:])
    assert [o.result for o in outcomes if o.network == "residual"] == ["refused"]
    with pytest.raises(UserError, match="none of the networks"):
        check_rule(make(), networks={"residual": NETWORKS["residual"]})


def test_an_unknown_contract_is_refused():
    with pytest.raises(UserError, match="no contract is called nonsense"):
        check_rule(Backprop(), skip=["nonsense"])


def test_a_path_that_leads_nowhere_is_one_line(capsys):
    assert main(["lit_fa.rules.Nothing"]) == 2
    assert "Nothing" in capsys.readouterr().err
