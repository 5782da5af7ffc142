"""One page for each rule, made from its file, its options and the contract tests."""

import inspect
from functools import cache

from docs.site.reference import module_text, notes
from lit_fa import rules
from lit_fa.layers.sources import FeedbackSource
from lit_fa.rules.base import Does, LearningRule
from tests.cases import IMPOSSIBLE, OPTED_OUT, RULES
from tests.small_networks import NETWORKS

REACH = {
    Does.STREAMS: "has block boundaries, so it can be streamed and trained layer-parallel",
    Does.EDITS: "edits gradients between the backward pass and the optimiser's step",
    Does.EVOLVES: "changes parameters or feedback after the optimiser's step",
    Does.PREPARES: "prepares weights and feedback before the first step",
}


def classes() -> list[type]:
    """The public rules, and the sources of feedback alignment's backward matrix."""
    public = [getattr(rules, name) for name in rules.__all__]
    kinds = [c for c in public if inspect.isclass(c) and issubclass(c, (LearningRule, FeedbackSource))]
    return [c for c in kinds if c not in (LearningRule, FeedbackSource)]


@cache
def tested() -> dict[type, list[str]]:
    """Class to the names under which the contract tests know it."""
    names: dict[type, list[str]] = {}
    for name, (make, _) in RULES.items():
        rule = make()
        for part in (rule, getattr(rule, "source", None)):
            names.setdefault(type(part), []).append(name)
    return names


def rule_pages() -> dict[str, str]:
    """File of the site to its text: an index, and one page for each class."""
    files = {f"rules/{c.__name__}.md": page_of(c) for c in classes()}
    listed = "\n".join(f"{c.__name__}" for c in classes())
    rows = "\n".join(f"| [{c.__name__}]({c.__name__}.md) | {first_line(c)} |" for c in classes())
    text = f"# Rules\n\nEvery rule, generated from its source file.\n\n| rule | what it does |\n|---|---|\n{rows}\n"
    return files | {"rules/index.md": f"{text}\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"}


def first_line(kind: type) -> str:
    """The first line of the class's docstring."""
    return (inspect.getdoc(kind) or "").splitlines()[0]


def page_of(kind: type) -> str:
    """The page of one rule: the paper's formula, options, what it reaches, contracts."""
    source = module_text(inspect.getmodule(kind))
    parts = [f"# {kind.__name__}", first_line(kind)]
    if issubclass(kind, LearningRule):
        parts += ["## Paper and formula", source]
    parts += ["## Options", f"```{{eval-rst}}\n.. autoclass:: lit_fa.{kind.__name__}\n   :noindex:\n{notes(kind)}```"]
    return "\n\n".join([*parts, *reach(kind), *contracts(kind)]) + "\n"


def reach(kind: type) -> list[str]:
    """What the rule does beside its surrogate."""
    if not issubclass(kind, LearningRule) or kind not in tested():
        return []
    does = RULES[tested()[kind][0]][0]().does
    facts = [f"* It {text}." for part, text in REACH.items() if part in does]
    return ["## What it does in a step", "\n".join(facts or ["* It computes its surrogate and nothing else."])]


def contracts(kind: type) -> list[str]:
    """The contract tests in which it takes part, and those in which it does not, with the reason."""
    names = tested().get(kind, [])
    if not names:
        return []
    known, networks = ", ".join(f"`{name}`" for name in names), ", ".join(NETWORKS)
    head = f"Tested as {known} on the networks {networks}, in the suites of `tests/contract` that apply."
    out = [(suite, name, reasons[name]) for suite, reasons in OPTED_OUT.items() for name in names if name in reasons]
    lines = [f"* {suite}, `{name}`: {reason}" for suite, name, reason in out]
    lines += [f"* network {net}, `{name}`: {why}" for (name, net), why in IMPOSSIBLE.items() if name in names]
    left_out = ["Left out:\n\n" + "\n".join(lines)] if lines else []
    return ["## Contracts", head, *left_out]
