"""A verdict in words."""

import math

import pytest

from lit_fa.reports.rows import verdict_text
from lit_fa.results.compare import Comparison, Counts, Kind, Reason, Verdict, judge
from lit_fa.results.summary import summarise
from lit_fa.spec.table import Cell, Metric, Published, Scale

ACCURACY = Metric("test/accuracy", "%")
FULL, SMOKE = Scale("full", (0,), {}), Scale("smoke", (0,), {})
CPU = Scale("cpu", (0,), {}, "10 of the paper's 50 epochs")
PRINTED = Published(97.8, "%")


def compared(values, published, scale, *, pair=None, **counts) -> Comparison:
    """A cell of these values; `pair`: values of the paired difference, which `published` is then about."""
    numbers = {"published_difference" if pair is not None else "published": published}
    cell = Cell("FA", "", {}, ACCURACY, (scale.name,), paired_with="BP|" * (pair is not None), **numbers)
    summary, n = summarise(values, ACCURACY), len(values)
    paired = None if pair is None else summarise(pair, ACCURACY)
    verdict = judge(summary if pair is None else paired, published, scale, 0.3)
    if pair == []:
        verdict = Verdict(Kind.OPEN, Reason.PAIR_NOT_RUN)
    runs = Counts(**{"expected": n, "finished": n} | counts)
    return Comparison(cell, summary, (), verdict, runs, paired=paired, on_pairs=pair is not None)


@pytest.mark.parametrize(
    ("comparison", "text"),
    [
        (compared([97.8], PRINTED, FULL), "reproduced"),
        (compared([97.0], PRINTED, FULL), "below"),
        (compared([97.6], PRINTED, CPU), "within 0.3 at cpu scale (not comparable: 10 of the paper's 50 epochs)"),
        (compared([96.6], PRINTED, CPU), "below by 1.2 at cpu scale (not comparable: 10 of the paper's 50 epochs)"),
        (
            compared([97.8], PRINTED, SMOKE),
            "within 0.3 at smoke scale (not comparable: the smoke scale is not the paper's protocol)",
        ),
        (compared([], PRINTED, FULL, expected=3), "not run"),
        (compared([97.0], None, FULL), "no published number"),
        (compared([97.0], Published(0.97, "1"), FULL), "not comparable (published in 1, measured in %)"),
        (
            compared([97.0], Published(97.0, "%", metric="test/top5"), FULL),
            "not comparable (published is test/top5, measured is test/accuracy)",
        ),
        (compared([math.nan, 97.0], PRINTED, FULL), "not finite in 1 of 2 runs"),
        (compared([97.8, 97.8], PRINTED, FULL, expected=3), "reproduced; 2 of 3 seeds"),
        (compared([97.8], PRINTED, FULL, finished=3, unlogged=2), "2 of 3 runs logged no test/accuracy (last)"),
        (compared([97.8], Published(2.5, "%"), FULL, pair=[2.4]), "reproduced; of the difference"),
        (compared([97.8], Published(2.5, "%"), FULL, pair=[]), "not comparable (its pair is not run)"),
        (
            compared([97.8, 97.8], PRINTED, FULL, expected=3, diverged=1),
            "diverged in 1 of 3; mean of 2 that did not diverge: reproduced",
        ),
        (compared([], PRINTED, FULL, expected=3, diverged=3), "diverged in 3 of 3"),
        (compared([], PRINTED, FULL, expected=3, diverged=2), "diverged in 2 of 3; 1 not run"),
        (
            compared([], PRINTED, FULL, expected=3, finished=2, unlogged=2, diverged=1),
            "diverged in 1 of 3; 2 of 2 runs logged no test/accuracy (last)",
        ),
    ],
)
def test_verdict_text(comparison, text):
    assert verdict_text(comparison) == text


def test_the_scale_can_be_left_to_a_mark_beside_the_verdict():
    assert verdict_text(compared([96.6], PRINTED, CPU), caveat=False) == "below by 1.2"
