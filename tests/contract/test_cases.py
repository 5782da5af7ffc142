"""The list of rules is complete, and what opts out of a suite is a rule and a suite that exist."""

import inspect
from pathlib import Path

import pytest

from lit_fa import rules
from lit_fa.layers.sources import SOURCES
from tests.cases import ALIKE, IMPOSSIBLE, LIMITS, OPTED_OUT, RULES
from tests.contract.test_one_function import alike

HERE = Path(__file__).parent
MADE = [make() for make, _ in RULES.values()]


def test_every_rule_of_the_package_is_in_the_list():
    offered = {c for _, c in inspect.getmembers(rules, inspect.isclass) if issubclass(c, rules.LearningRule)}
    assert offered - {rules.LearningRule} == {type(rule) for rule in MADE}


def test_every_source_of_feedback_is_in_the_list():
    assert {*SOURCES.values()} <= {type(rule.source) for rule in MADE if hasattr(rule, "source")}


def test_whoever_opts_out_is_in_the_list():
    names = {name for reasons in OPTED_OUT.values() for name in reasons} | {rule for rule, _ in (*IMPOSSIBLE, *LIMITS)}
    assert names <= {*RULES}


@pytest.mark.parametrize("suite", sorted({*OPTED_OUT} | {suite for limits in LIMITS.values() for suite in limits}))
def test_a_suite_that_is_opted_out_of_exists(suite: str):
    asked = (f'suite="{suite}"', f'rules("{suite}"')
    files = [*HERE.glob("test_*.py"), *(HERE.parent / "federated").glob("test_*.py")]
    assert any(words in file.read_text("utf-8") for file in files for words in asked)


def test_rules_that_are_declared_alike_issue_the_same_operations():
    first = {rule: same for rule, (same, _) in alike().items()}
    assert {first[rule] for rule in ALIKE} == {first[other] for other in ALIKE.values()}
    assert not {*ALIKE} & {*ALIKE.values()}
