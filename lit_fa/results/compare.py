"""Ours against the published number: mean, spread, interval, difference and one word.

A number that was not measured at the full scale is never called reproduced: its verdict names the scale and what was
cut.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from lit_fa.results.records import Collected
from lit_fa.spec.table import Cell, Metric, Published, Scale

KINDS = ("reproduced", "within", "above", "below", "open", "missing", "failed")


@dataclass(frozen=True)
class Summary:
    """A metric over seeds, in the metric's unit; `sd` is the sample deviation (n - 1), None for a single run.

    `interval` is half the width of the two-sided 95 % Student interval of the mean.
    """

    metric: Metric
    values: tuple[float, ...]
    mean: float | None = None
    sd: float | None = None
    interval: float | None = None

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)


@dataclass(frozen=True)
class Comparison:
    """One cell of the report: `expected` runs wanted, `difference` is ours minus published, `verdict` in words.

    `paired`: this cell's value minus that of the cell it is paired with, seed by seed; None without one. `diverged`
    counts runs of the cell that diverged, `pairs_lost` seeds of which this cell's run or its pair's did; neither has
    values in a mean.
    """

    cell: Cell
    summary: Summary
    also: tuple[Summary, ...]
    expected: int
    difference: float | None
    verdict: str
    paired: Summary | None = None
    diverged: int = 0
    pairs_lost: int = 0

    @property
    def kind(self) -> str:
        """`reproduced`, `within`, `above`, `below`; `open`: nothing to compare with; `missing`: no run; `failed`."""
        first = self.verdict.split(" ")[0].rstrip(";")
        if first in KINDS:
            return first
        if not self.summary.n and self.verdict == "not run":
            return "missing"
        return "open" if self.verdict.startswith(("no published", "not comparable")) else "failed"


def compare(collected: Collected) -> list[Comparison]:
    """A comparison for every cell that the scale has, in the order of the table."""
    return [_compare_cell(collected, cell) for cell in collected.cells]


def summarise(values: Sequence[float], metric: Metric) -> Summary:
    """Mean, sample deviation and 95 % Student interval of the mean; a mean that is not finite has neither.

    >>> summarise([1.0, 3.0], Metric("test/accuracy", "%")).mean
    2.0
    """
    if not values:
        return Summary(metric, ())
    if not all(map(math.isfinite, values)):
        return Summary(metric, tuple(values), math.nan)
    if len(values) == 1:
        return Summary(metric, tuple(values), values[0])
    from scipy.special import stdtrit  # takes long to import; only a report needs it

    sd = stdev(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * sd / math.sqrt(len(values))
    return Summary(metric, tuple(values), fmean(values), sd, half)


def tolerance(summary: Summary, published: Published, floor: float) -> float:
    """max(floor, 2 x combined standard error), in the metric's unit.

    A side without a known spread or number of runs adds nothing, which makes the test stricter, never more lenient.
    """
    ours = summary.sd**2 / summary.n if summary.sd is not None else 0.0
    theirs = published.std**2 / published.n if published.std is not None and published.n else 0.0
    return max(floor, 2 * math.sqrt(ours + theirs))


def verdict(summary: Summary, published: Published | None, scale: Scale, floor: float) -> str:
    """`reproduced`, `above`, `below`, or why neither can be said.

    Above and below are literal: an error rate above the published one is worse.
    """
    metric = summary.metric
    if not summary.n:
        return "not run"
    if not all(map(math.isfinite, summary.values)):
        return f"not finite in {sum(not math.isfinite(v) for v in summary.values)} of {summary.n} runs"
    if published is None:
        return "no published number"
    if published.unit != metric.unit:
        return f"not comparable (published in {published.unit}, measured in {metric.unit})"
    if published.metric and published.metric != metric.name:
        return f"not comparable (published is {published.metric}, measured is {metric.name})"
    difference, allowed = summary.mean - published.value, tolerance(summary, published, floor)
    # The slack is rounding only: 97.8 - 97.5 is 0.3 to a person, not 0.29999999999999716 or 0.30000000000001137.
    close = abs(difference) <= allowed + 1e-9 * max(abs(published.value), abs(summary.mean))
    if scale.name == "full":
        return "reproduced" if close else "above" if difference > 0 else "below"
    size = f"within {allowed:.2g}" if close else f"{'above' if difference > 0 else 'below'} by {abs(difference):.2g}"
    return f"{size} {caveat(scale)}"


def caveat(scale: Scale) -> str:
    """What every verdict below the full scale carries: that it is none, and what was cut."""
    reason = scale.note or f"the {scale.name} scale is not the paper's protocol"
    return f"at {scale.name} scale (not comparable: {reason})"


def _compare_cell(collected: Collected, cell: Cell) -> Comparison:
    table, records = collected.table, collected.of(cell)
    summary, *also = (
        summarise([v for v in (record.value(metric) for record in records) if v is not None], metric)
        for metric in (cell.metric, *table.also)
    )
    expected = sum(run.cell is cell for run in collected.runs)
    comparable = summary.n and cell.published and cell.published.unit == cell.metric.unit
    same = comparable and cell.published.metric in ("", cell.metric.name)
    difference = summary.mean - cell.published.value if same else None
    pair, lost = paired(collected, cell), len(collected.lost(cell))
    word = _verdict_of(cell, summary, pair, collected.scale, table.floor)
    if len(records) > summary.n:
        word = f"{len(records) - summary.n} of {len(records)} runs logged no {cell.metric.name} ({cell.metric.at})"
    elif 0 < summary.n < expected - lost:
        word += f"; {summary.n} of {expected} seeds"
    word = _with_diverged(word, summary.n, lost, expected)
    return Comparison(
        cell, summary, tuple(also), expected, difference, word, pair, lost, len(_seeds_lost(collected, cell))
    )


def _verdict_of(cell: Cell, summary: Summary, pair: Summary | None, scale: Scale, floor: float) -> str:
    """On the value; where the paper prints only the difference from the pair, on that."""
    if not (cell.published is None and cell.published_difference and summary.n):
        return verdict(summary, cell.published, scale, floor)
    word = verdict(pair, cell.published_difference, scale, floor)
    return f"{word}; of the difference" if pair.n else "not comparable (its pair is not run)"


def _with_diverged(word: str, n: int, lost: int, expected: int) -> str:
    """A mean over survivors is no mean over seeds, so the divergence is told first."""
    if not lost:
        return word
    told = f"diverged in {lost} of {expected}"
    if n:
        return f"{told}; mean of {n} that did not diverge: {word}"
    return told if lost == expected else f"{told}; {expected - lost} not run"


def _seeds_lost(collected: Collected, cell: Cell) -> set[int]:
    """Seeds whose paired difference a divergence has taken."""
    ids = (cell.id, cell.paired_with) if cell.paired_with else ()
    return {record.seed for id in ids for record in collected.diverged.get(id, ())}


def paired(collected: Collected, cell: Cell) -> Summary | None:
    """The differences of a cell from its pair, over the seeds that both have; None for a cell without a pair."""
    if not cell.paired_with:
        return None
    own, other = (
        {record.seed: record.value(cell.metric) for record in collected.records.get(id, ())}
        for id in (cell.id, cell.paired_with)
    )
    both = [(own[seed], other[seed]) for seed in own if own[seed] is not None and other.get(seed) is not None]
    return summarise([a - b for a, b in both], cell.metric)
