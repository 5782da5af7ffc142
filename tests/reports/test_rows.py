"""A verdict in words."""

import math

import pytest

from lit_fa.reports.rows import verdict_text
from lit_fa.results.compare import Comparison, Counts
from lit_fa.results.summary import summarise
from lit_fa.results.verdict import Reason, Verdict, judge, why_not
from lit_fa.spec.accept import Accept
from lit_fa.spec.table import Cell, Metric, Published, Scale, load_table

ACCURACY = Metric("test/accuracy", "%")
FULL, CPU = Scale("full", (0,), {}), Scale("cpu", (0,), {}, "10 of the paper's 50 epochs")
ACCEPT = Accept(0.3, "the table prints one decimal")
PRINTED, THEOREM = Published(97.8, "%"), Published(97.8, "%", exact=True)


@pytest.fixture
def table(declared, save):
    """A table whose positive control is BP."""
    return load_table(save(declared | {"control": {"row": "BP", "constant": 10}}))


def compared(values, published, scale=FULL, *, reason=None, **counts) -> Comparison:
    """A cell of these values."""
    cell, summary = Cell("FA", "", {}, ACCURACY, (scale.name,), published), summarise(values, ACCURACY)
    reason = reason or why_not(summary, published, scale)
    verdict = Verdict(reason.kind, reason) if reason else judge(summary, published, ACCEPT)
    runs = Counts(**{"expected": len(values), "finished": len(values)} | counts)
    return Comparison(cell, summary, (), verdict, runs)


@pytest.mark.parametrize(
    ("comparison", "text"),
    [
        (compared([97.8, 97.8], THEOREM), "agrees (p < 0.001, Holm < 0.001)"),
        (compared([97.7, 97.8, 97.9], THEOREM), "agrees (p 0.018, Holm 0.018)"),
        (compared([96.9, 97.0, 97.1], THEOREM), "differs (p 0.0052, Holm 0.0052)"),
        (compared([97.3, 97.8, 98.3], THEOREM), "undecided: 10 seeds would decide"),
        (compared([97.3, 97.8, 98.3], PRINTED), "undecided by any number of seeds"),
        (compared([97.8], PRINTED), "undecided: one run"),
        (compared([96.6], PRINTED, CPU), "not the paper's protocol"),
        (compared([96.6], Published(97.8, "%", protocol="60 epochs")), "not the paper's protocol (60 epochs)"),
        (compared([96.6], Published(97.8, "%", at="best")), "not comparable (published is best, measured is last)"),
        (
            compared([96.6], PRINTED, reason=Reason.NO_POWER),
            "no power here (BP does not beat a constant prediction)",
        ),
        (
            compared([96.6], PRINTED, reason=Reason.CONTROL_NOT_RUN),
            "no verdict (the positive control, BP, has fewer than two runs)",
        ),
        (compared([97.8], PRINTED, reason=Reason.PAIR_NOT_RUN), "not comparable (its pair is not run)"),
        (compared([], PRINTED, expected=3), "not run"),
        (compared([97.0], None), "no published number"),
        (compared([97.0], Published(0.97, "1")), "not comparable (published in 1, measured in %)"),
        (
            compared([97.0], Published(97.0, "%", metric="test/top5")),
            "not comparable (published is test/top5, measured is test/accuracy)",
        ),
        (compared([math.nan, 97.0], PRINTED), "not finite in 1 of 2 runs"),
        (compared([97.8, 97.8], THEOREM, expected=3), "agrees (p < 0.001, Holm < 0.001); 2 of 3 seeds"),
        (compared([97.8], PRINTED, finished=3, unlogged=2), "2 of 3 runs logged no test/accuracy (last)"),
        (
            compared([97.8, 97.8], THEOREM, expected=3, diverged=1),
            "diverged in 1 of 3; mean of 2 that did not diverge: agrees (p < 0.001, Holm < 0.001)",
        ),
        (compared([], PRINTED, expected=3, diverged=3), "diverged in 3 of 3"),
        (compared([], PRINTED, expected=3, diverged=2), "diverged in 2 of 3; 1 not run"),
        (
            compared([], PRINTED, expected=3, finished=2, unlogged=2, diverged=1),
            "diverged in 1 of 3; 2 of 2 runs logged no test/accuracy (last)",
        ),
    ],
)
def test_verdict_text(comparison, text, table):
    assert verdict_text(comparison, table) == text
