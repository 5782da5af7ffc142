"""Measured against published: for every cell the mean over seeds, and a verdict as data.

A verdict holds the kind of outcome and the numbers that decided it; `lit_fa.reports` turns it into text. `judge` is the
only statistical test. A mean at a reduced scale is never called reproduced: its verdict has the scale as a caveat.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from lit_fa.results.records import Collected, Record
from lit_fa.results.summary import Summary, summarise
from lit_fa.spec.table import Cell, Metric, Published, Scale


class Kind(StrEnum):
    """The outcome of a comparison. Above and below are literal: an error rate above the published one is worse."""

    REPRODUCED = "reproduced"  # within the margin, at the paper's scale
    WITHIN = "within"  # within the margin, at a reduced scale
    ABOVE = "above"
    BELOW = "below"
    OPEN = "open"  # nothing to compare with
    MISSING = "missing"  # no run
    FAILED = "failed"  # runs that diverged, or without a finite number


class Reason(Enum):
    """Why there is no difference from a published number."""

    NOT_RUN = "no run"
    NOT_FINITE = "a value is nan or infinite"
    UNPUBLISHED = "no published number"
    OTHER_UNIT = "published in another unit"
    OTHER_METRIC = "another metric is published"
    PAIR_NOT_RUN = "no run of the paired cell"

    @property
    def kind(self) -> Kind:
        """The kind of verdict that follows."""
        return {Reason.NOT_RUN: Kind.MISSING, Reason.NOT_FINITE: Kind.FAILED}.get(self, Kind.OPEN)


@dataclass(frozen=True)
class Verdict:
    """The outcome of comparing a mean with a published number, both in the metric's unit.

    Attributes:
        kind: of the outcome.
        reason: why there is no difference; None where there is one.
        difference: measured minus published.
        interval: half the width of the 95 % interval of the measured mean; None for a single run.
        margin: largest absolute difference that counts as agreement.
        caveat: the reduced scale of the measurement, None at the paper's.
    """

    kind: Kind
    reason: Reason | None = None
    difference: float | None = None
    interval: float | None = None
    margin: float | None = None
    caveat: Scale | None = None


@dataclass(frozen=True)
class Counts:
    """Runs of a cell. `pairs_lost`: seeds without a paired difference, because this run or the paired one diverged."""

    expected: int
    finished: int
    diverged: int = 0
    unlogged: int = 0  # finished, but without the metric
    pairs_lost: int = 0


@dataclass(frozen=True)
class Comparison:
    """One cell of the report. Diverged runs are counted, and their values are in no mean.

    Attributes:
        cell: that was measured.
        summary: the cell's metric over seeds.
        also: the table's further metrics over seeds.
        verdict: on the summary, or on `paired` with `on_pairs`.
        counts: of the cell's runs.
        pair: the paired cell, None without one.
        paired: this cell's value minus that of `pair`, seed by seed; None without one.
        on_pairs: the paper prints only the difference from the paired cell, so the verdict is on that.
    """

    cell: Cell
    summary: Summary
    also: tuple[Summary, ...]
    verdict: Verdict
    counts: Counts
    pair: Cell | None = None
    paired: Summary | None = None
    on_pairs: bool = False

    @property
    def kind(self) -> Kind:
        """The kind of the verdict; failed if a run diverged or did not log the metric."""
        return Kind.FAILED if self.counts.diverged or self.counts.unlogged else self.verdict.kind

    @property
    def judged(self) -> tuple[Summary, Published | None]:
        """What the verdict compares: a measured summary and a published number."""
        if self.on_pairs and self.paired is not None:
            return self.paired, self.cell.published_difference
        return self.summary, self.cell.published

    @property
    def difference(self) -> float | None:
        """Measured minus published value; None where they cannot be compared."""
        return None if self.on_pairs else self.verdict.difference


def compare(collected: Collected) -> list[Comparison]:
    """A comparison for every cell of the scale, in the order of the table."""
    return [_compare_cell(collected, cell) for cell in collected.cells]


def judge(summary: Summary, published: Published | None, scale: Scale, floor: float) -> Verdict:
    """The verdict on a mean: whether it differs from the published number by more than the margin.

    Args:
        summary: of the measured values.
        published: to compare with.
        scale: of the measurement.
        floor: smallest margin.
    """
    comparable = _comparable(summary, published)
    if isinstance(comparable, Reason):
        return Verdict(comparable.kind, comparable)
    mean, published = comparable
    difference, margin = mean - published.value, tolerance(summary, published, floor)
    # The slack is rounding only: 97.8 - 97.5 is 0.3 to a person, not 0.29999999999999716 or 0.30000000000001137.
    close = abs(difference) <= margin + 1e-9 * max(abs(published.value), abs(mean))
    full = scale.name == "full"
    agrees = Kind.REPRODUCED if full else Kind.WITHIN
    kind = agrees if close else Kind.ABOVE if difference > 0 else Kind.BELOW
    return Verdict(kind, None, difference, summary.interval, margin, None if full else scale)


def tolerance(summary: Summary, published: Published, floor: float) -> float:
    """max(floor, 2 x combined standard error), in the metric's unit.

    A side without a known spread or number of runs adds nothing, which makes the test stricter, never more lenient.
    """
    ours = summary.sd**2 / summary.n if summary.sd is not None else 0.0
    theirs = published.std**2 / published.n if published.std is not None and published.n else 0.0
    return max(floor, 2 * math.sqrt(ours + theirs))


def _comparable(summary: Summary, published: Published | None) -> tuple[float, Published] | Reason:
    """The mean and the published number, or why they cannot be compared."""
    metric = summary.metric
    if summary.mean is None:
        return Reason.NOT_RUN
    if summary.not_finite:
        return Reason.NOT_FINITE
    if published is None:
        return Reason.UNPUBLISHED
    if published.unit != metric.unit:
        return Reason.OTHER_UNIT
    if published.metric not in ("", metric.name):
        return Reason.OTHER_METRIC
    return summary.mean, published


def _compare_cell(collected: Collected, cell: Cell) -> Comparison:
    table, scale, records = collected.table, collected.scale, collected.of(cell)
    metrics = (cell.metric, *table.also)
    summary, *also = (summarise(_values(records, metric), metric) for metric in metrics)
    pair = next((other for other in table.cells if other.id == cell.paired_with), None)
    paired = _paired(collected, cell, pair) if pair else None
    verdict, on_pairs = judge(summary, cell.published, scale, table.floor), False
    if paired is not None and summary.n and cell.published_difference and not cell.published:
        verdict, on_pairs = judge(paired, cell.published_difference, scale, table.floor), True
        if not paired.n:
            verdict = Verdict(Kind.OPEN, Reason.PAIR_NOT_RUN)
    return Comparison(cell, summary, tuple(also), verdict, _count(collected, cell, summary), pair, paired, on_pairs)


def _values(records: Sequence[Record], metric: Metric) -> list[float]:
    return [value for record in records if (value := record.value(metric)) is not None]


def _count(collected: Collected, cell: Cell, summary: Summary) -> Counts:
    finished, pair = len(collected.of(cell)), (cell.id, cell.paired_with) if cell.paired_with else ()
    return Counts(
        expected=sum(run.cell is cell for run in collected.runs),
        finished=finished,
        diverged=len(collected.lost(cell)),
        unlogged=finished - summary.n,
        pairs_lost=len({record.seed for id in pair for record in collected.diverged.get(id, ())}),
    )


def _paired(collected: Collected, cell: Cell, pair: Cell) -> Summary:
    """This cell's values minus the paired cell's, for the seeds that both have."""
    own, other = (
        {record.seed: value for record in collected.of(c) if (value := record.value(cell.metric)) is not None}
        for c in (cell, pair)
    )
    return summarise([own[seed] - other[seed] for seed in own if seed in other], cell.metric)
