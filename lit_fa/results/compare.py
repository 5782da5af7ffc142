"""Measured against published: for every cell the mean over seeds, and a verdict as data.

A cell whose paper prints the difference from another cell gets a comparison of its own, of the paired runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lit_fa.results.equivalence import Reading, holm, lower_bound, p_of_mean
from lit_fa.results.records import Collected, Record
from lit_fa.results.summary import Summary, summarise
from lit_fa.results.verdict import Kind, PValue, Reason, Verdict, decide, judge, why_not
from lit_fa.spec.table import Cell, Metric, Published


@dataclass(frozen=True)
class Counts:
    """Runs of a cell, or pairs of runs of two.

    `pairs_lost`: seeds without a paired difference, because this run or the paired one diverged.
    `unequal_starts`: pairs whose two runs started from different pre-trained weights.
    """

    expected: int
    finished: int
    diverged: int = 0
    unlogged: int = 0  # finished, but without the metric
    pairs_lost: int = 0
    unequal_starts: int = 0


@dataclass(frozen=True)
class Comparison:
    """One row of the report. Diverged runs are counted, and their values are in no mean.

    Attributes:
        cell: that was measured.
        summary: the cell's metric over seeds; of the paired differences with `of_difference`.
        also: the table's further metrics over seeds.
        verdict: on the summary.
        counts: of the cell's runs; with `of_difference` of the pairs.
        pair: the paired cell, None without one.
        paired: this cell's value minus that of `pair`, seed by seed; None without one.
        contrast: of the test that `paired` has mean 0; None without one and for a single pair.
        of_difference: the row is about the published difference from `pair`.
        validation: by name of a test metric, the same metric of held-out data over seeds.
    """

    cell: Cell
    summary: Summary
    also: tuple[Summary, ...]
    verdict: Verdict
    counts: Counts
    pair: Cell | None = None
    paired: Summary | None = None
    contrast: PValue | None = None
    of_difference: bool = False
    validation: dict[str, Summary] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """The kind of the verdict; failed if a run diverged or did not log the metric."""
        return Kind.FAILED if self.counts.diverged or self.counts.unlogged else self.verdict.kind

    @property
    def published(self) -> Published | None:
        """The number that the row is compared with."""
        return self.cell.published_difference if self.of_difference else self.cell.published

    @property
    def difference(self) -> float | None:
        """Measured minus published value; None without a test."""
        return self.verdict.evidence.difference if self.verdict.evidence else None

    @property
    def reading_of(self) -> str:
        """The published number that the row is one of several readings of; its own name where it is the only one."""
        name = self.cell.reading_of or self.cell.id
        return f"{name}, difference" if self.of_difference else name


def compare(collected: Collected) -> list[Comparison]:
    """A comparison for every cell of the scale, and for every published difference, in the order of the table."""
    by_id = {cell.id: cell for cell in collected.table.cells}
    rows = [row for cell in collected.cells for row in _compare_cell(collected, cell, by_id.get(cell.paired_with))]
    return _with_contrasts(_with_holm(rows))


def _compare_cell(collected: Collected, cell: Cell, pair: Cell | None) -> list[Comparison]:
    table, records = collected.table, collected.of(cell)
    summary, *also = (summarise(_values(records, metric), metric) for metric in (cell.metric, *table.also))
    paired = _paired(collected, cell, pair) if pair else None
    counts = _count(collected, cell, summary)
    verdict = _verdict(collected, cell, summary, cell.published)
    beside = {m.name: s for m in (cell.metric, *table.also) if (s := _validation(records, m)) is not None}
    rows = [
        Comparison(
            cell=cell,
            summary=summary,
            also=tuple(also),
            verdict=verdict,
            counts=counts,
            pair=pair,
            paired=paired,
            validation=beside,
        )
    ]
    if pair is not None and paired is not None and cell.published_difference:
        verdict = _verdict(collected, cell, paired, cell.published_difference)
        if verdict.reason is Reason.NOT_RUN and summary.n:
            verdict = Verdict(Kind.OPEN, Reason.PAIR_NOT_RUN)
        rows.append(
            Comparison(
                cell=cell,
                summary=paired,
                also=(),
                verdict=verdict,
                counts=_count_pairs(collected, cell, pair, counts, paired),
                pair=pair,
                paired=paired,
                of_difference=True,
            )
        )
    return rows


def _verdict(collected: Collected, cell: Cell, summary: Summary, published: Published | None) -> Verdict:
    reason = why_not(summary, published, collected.scale) or _without_power(collected, cell, published)
    if reason:
        return Verdict(reason.kind, reason)
    assert published is not None
    assert cell.accept is not None  # a table with a published number has a margin
    return judge(summary, published, cell.accept)


def _without_power(collected: Collected, cell: Cell, published: Published | None) -> Reason | None:
    """Why the cell's column can show nothing: its positive control is missing, or no better than a constant."""
    control = collected.table.control
    constant = control.value(cell.column) if control else None
    rows = [c for c in collected.cells if control and (c.row, c.column) == (control.row, cell.column)]
    if constant is None or not rows or rows[0].metric != cell.metric or not cell.accept:
        return None
    values = summarise(_values(collected.of(rows[0]), rows[0].metric), rows[0].metric)
    if values.mean is None or values.sd is None:
        return Reason.CONTROL_NOT_RUN
    sign = 1 if cell.metric.better == "higher" else -1
    gain = lower_bound(sign * (values.mean - constant), values.sd, values.n)
    difference = published is not None and published is cell.published_difference
    effect = max(cell.accept.margin, abs(published.value) if difference and published else 0.0)
    return None if gain > effect else Reason.NO_POWER


def _with_holm(rows: list[Comparison]) -> list[Comparison]:
    """The rows with p-values corrected over the readings of one number, and then over the numbers of the table."""
    evidence = {i: row.verdict.evidence for i, row in enumerate(rows) if row.verdict.evidence}
    readings = {i: rows[i].reading_of for i in evidence}
    agrees = _corrected(readings, {i: seen.p_agrees for i, seen in evidence.items()})
    differs = _corrected(readings, {i: seen.p_differs for i, seen in evidence.items()})
    members = {i: [j for j, name in readings.items() if name == readings[i]] for i in evidence}
    return [
        _decided(row, agrees[i], differs[i], [rows[j] for j in members[i]], members[i].index(i))
        if i in evidence
        else row
        for i, row in enumerate(rows)
    ]


def _decided(row: Comparison, agrees: PValue, differs: PValue, family: list[Comparison], at: int) -> Comparison:
    """The row with the verdict that follows from its p-values; `family` are the readings of its number."""
    verdict = replace(row.verdict, kind=Kind.UNDECIDED, agrees=agrees, differs=differs, seeds=None)
    return replace(row, verdict=decide(verdict, [*map(_reading, family)], at, row.summary.n))


def _reading(row: Comparison) -> Reading:
    seen, sd, published = row.verdict.evidence, row.summary.sd, row.published
    assert seen is not None
    assert sd is not None
    assert published is not None
    return Reading(seen, sd, published)


def _corrected(readings: dict[int, str], raw: dict[int, float]) -> dict[int, PValue]:
    """Holm's correction, first over the rows that read one number, then over the best readings of all numbers."""
    families: dict[str, list[int]] = {}
    for i, name in readings.items():
        families.setdefault(name, []).append(i)
    own = {i: p for family in families.values() for i, p in zip(family, holm([raw[i] for i in family]), strict=True)}
    over = dict(zip(families, holm([min(own[i] for i in family) for family in families.values()]), strict=True))
    return {i: PValue(own[i], max(own[i], over[name])) for i, name in readings.items()}


def _with_contrasts(rows: list[Comparison]) -> list[Comparison]:
    """The rows with the tests of their paired differences, corrected over all of the table."""
    tested = {
        i: p_of_mean(row.paired.mean, row.paired.sd, row.paired.n)
        for i, row in enumerate(rows)
        if row.paired is not None
        and row.paired.mean is not None
        and row.paired.sd is not None
        and not row.of_difference
    }
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [
        replace(row, contrast=PValue(tested[i], corrected[i])) if i in tested else row for i, row in enumerate(rows)
    ]


def _validation(records: Sequence[Record], metric: Metric) -> Summary | None:
    """The metric on held-out data, where all the records have it and did not validate on the test set."""
    split, _, name = metric.name.partition("/")
    held_out = [record for record in records if record.data.get("validation_is_test") is False]
    if split != "test" or metric.at != "last" or len(held_out) < len(records):
        return None
    values = _values(held_out, replace(metric, name=f"val/{name}"))
    return summarise(values, metric) if values and len(values) == len(records) else None


def _values(records: Sequence[Record], metric: Metric) -> list[float]:
    return [value for record in records if (value := record.value(metric)) is not None]


def _count(collected: Collected, cell: Cell, summary: Summary) -> Counts:
    finished, pair = len(collected.of(cell)), (cell.id, cell.paired_with) if cell.paired_with else ()
    return Counts(
        expected=len(collected.runs_of(cell.id)),
        finished=finished,
        diverged=len(collected.lost(cell)),
        unlogged=finished - summary.n,
        pairs_lost=len({record.seed for id in pair for record in collected.diverged.get(id, ())}),
        unequal_starts=_unequal_starts(collected, pair),
    )


def _count_pairs(collected: Collected, cell: Cell, pair: Cell, counts: Counts, paired: Summary) -> Counts:
    """The counts of the pairs of two cells: a pair has diverged if one of its runs has."""
    finished = len({r.seed for r in collected.of(cell)} & {r.seed for r in collected.of(pair)})
    return replace(counts, finished=finished, diverged=counts.pairs_lost, unlogged=finished - paired.n)


def _unequal_starts(collected: Collected, pair: tuple[str, ...]) -> int:
    """How many pairs of runs with one seed have different digests of their pre-trained weights."""
    starts: dict[int, set[str]] = {}
    for record in (record for id in pair for record in collected.records.get(id, ())):
        if digest := (record.data.get("pretrained") or {}).get("digest"):
            starts.setdefault(record.seed, set()).add(digest)
    return sum(len(digests) > 1 for digests in starts.values())


def _paired(collected: Collected, cell: Cell, pair: Cell) -> Summary:
    """This cell's values minus the paired cell's, for the seeds that both have."""
    own, other = (
        {record.seed: value for record in collected.of(c) if (value := record.value(cell.metric)) is not None}
        for c in (cell, pair)
    )
    return summarise([own[seed] - other[seed] for seed in own if seed in other], cell.metric)
