"""`check_rule`: every contract on every small network, for a rule of any package."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple

from torch import nn

from lit_fa.errors import UserError
from lit_fa.rules.base import LearningRule
from lit_fa.testing.contracts import CONTRACTS, NotForThisRuleError
from lit_fa.testing.networks import NETWORKS
from lit_fa.testing.subject import Reference, Subject

Networks = Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]


class Outcome(NamedTuple):
    """What came of one contract on one network.

    Attributes:
        contract: its name, a function of `lit_fa.testing.contracts`.
        network: its name.
        result: `passed`, `failed`, `skipped` (it says nothing about this rule) or `refused` (the rule does not support
            this network).
        why: of everything but `passed`.
    """

    contract: str
    network: str
    result: Literal["passed", "failed", "skipped", "refused"]
    why: str = ""


class ContractError(AssertionError):
    """A rule breaks contracts; `outcomes` has all results."""

    def __init__(self, outcomes: list[Outcome]):
        """List what failed."""
        failed = [outcome for outcome in outcomes if outcome.result == "failed"]
        lines = "\n".join(f"  {o.contract} on {o.network}: {o.why}" for o in failed)
        super().__init__(f"{len(failed)} contracts do not hold:\n{lines}")
        self.outcomes = outcomes


def check_rule(
    rule: LearningRule,
    reference: Reference | None = None,
    *,
    networks: Networks | None = None,
    skip: Collection[str] = (),
    tolerance: float = 1e-10,
) -> list[Outcome]:
    """Run every contract on a rule, as `sklearn.utils.estimator_checks.check_estimator` does for an estimator.

    Args:
        rule: not installed yet; it is copied.
        reference: from (learner, inputs, labels as numpy arrays) to the literal float64 gradients, by the learner's
            names (``network.0.weight``).
        networks: name to (makes a network with five outputs, shape of one input); by default an MLP, a convolutional
            network, one on tokens and one with shortcuts. A network that the rule refuses by a `UserError` is not
            checked.
        skip: names of contracts that do not apply; each should have a reason in your test.
        tolerance: largest difference from the reference.

    Returns:
        One outcome for each contract and network.

    Raises:
        UserError: an unknown contract in `skip`, or no network that the rule accepts.
        ContractError: a contract does not hold.

    >>> from lit_fa import FeedbackAlignment
    >>> from lit_fa.testing.networks import NETWORKS
    >>> skip = ["it_compiles_without_a_graph_break"]
    >>> outcomes = check_rule(FeedbackAlignment(), networks={"mlp": NETWORKS["mlp"]}, skip=skip)
    >>> {outcome.result for outcome in outcomes} <= {"passed", "skipped"}
    True
    """
    if unknown := sorted({*skip} - {*CONTRACTS}):
        raise UserError(f"no contract is called {unknown[0]}; there are: {', '.join(CONTRACTS)}")
    outcomes: list[Outcome] = []
    for name, (build, shape) in (NETWORKS if networks is None else networks).items():
        outcomes += _on_network(name, Subject(rule, build, shape, reference, tolerance), skip)
    if all(outcome.result == "refused" for outcome in outcomes):
        raise UserError(f"the rule accepts none of the networks: {outcomes[0].why}")
    if any(outcome.result == "failed" for outcome in outcomes):
        raise ContractError(outcomes)
    return outcomes


def _on_network(network: str, subject: Subject, skip: Collection[str]) -> list[Outcome]:
    try:
        subject.learner()
    except UserError as error:
        return [Outcome("install", network, "refused", str(error))]
    return [_outcome(name, network, subject, name in skip) for name in CONTRACTS]


def _outcome(name: str, network: str, subject: Subject, skipped: bool) -> Outcome:
    if skipped:
        return Outcome(name, network, "skipped", "by the caller")
    try:
        CONTRACTS[name](subject)
    except NotForThisRuleError as reason:
        return Outcome(name, network, "skipped", str(reason))
    except Exception as error:  # a rule of others may raise anything
        return Outcome(name, network, "failed", f"{type(error).__name__}: {error}")
    return Outcome(name, network, "passed")
