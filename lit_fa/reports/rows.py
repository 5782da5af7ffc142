"""The cells of a report as text: measured, published, difference and verdict."""

from collections.abc import Sequence

from lit_fa.results.compare import Comparison, Kind, Reason, Verdict
from lit_fa.results.summary import Summary, headline, mean_sd, number
from lit_fa.spec.table import Cell, Published, Scale, Table

_REASONS = {
    Reason.NOT_RUN: "not run",
    Reason.NOT_FINITE: "not finite in {summary.not_finite} of {summary.n} runs",
    Reason.UNPUBLISHED: "no published number",
    Reason.OTHER_UNIT: "not comparable (published in {published.unit}, measured in {summary.metric.unit})",
    Reason.OTHER_METRIC: "not comparable (published is {published.metric}, measured is {summary.metric.name})",
    Reason.PAIR_NOT_RUN: "not comparable (its pair is not run)",
}


def headers(table: Table) -> list[str]:
    """The titles of the report's columns."""
    main = ["row", "column", headline(table.metric), "95 % of the mean", "n", "published", "difference", "verdict"]
    also = [headline(metric) for metric in table.also]
    return [*main, *also, *(["less its pair, seed by seed (95 %)"] if has_pairs(table) else [])]


def has_pairs(table: Table) -> bool:
    """Whether any cell is paired with another, so that the report has a column of paired differences."""
    return any(cell.paired_with for cell in table.cells)


def rows(comparisons: Sequence[Comparison], table: Table) -> list[list[str]]:
    """The report's cells as text, one list a row."""
    return [_row(comparison, table) for comparison in comparisons]


def verdict_text(comparison: Comparison, *, caveat: bool = True) -> str:
    """The verdict in words, with the number of runs behind it where some are missing.

    Args:
        comparison: a cell.
        caveat: whether to name the reduced scale; without it the text needs a mark beside it.
    """
    counts, n, metric = comparison.counts, comparison.summary.n, comparison.summary.metric
    text = _outcome(comparison, caveat)
    if counts.unlogged:
        text = f"{counts.unlogged} of {counts.finished} runs logged no {metric.name} ({metric.at})"
    elif 0 < n < counts.expected - counts.diverged:
        text += f"; {n} of {counts.expected} seeds"
    if not counts.diverged:
        return text
    # A mean over the other runs is no mean over seeds, so the divergence comes first.
    diverged = f"diverged in {counts.diverged} of {counts.expected}"
    if n:
        return f"{diverged}; mean of {n} that did not diverge: {text}"
    if counts.unlogged:
        return f"{diverged}; {text}"
    missing = counts.expected - counts.diverged
    return f"{diverged}; {missing} not run" if missing else diverged


def caveat_text(scale: Scale) -> str:
    """What follows every verdict at a reduced scale: that it is not comparable, and what was cut."""
    reason = scale.note or f"the {scale.name} scale is not the paper's protocol"
    return f"at {scale.name} scale (not comparable: {reason})"


def paired_difference(comparison: Comparison) -> str:
    """`+0.12 ± 0.30 to FedAvg, n 5; published +0.4`: the mean difference and half its 95 % Student interval.

    Empty without a pair.
    """
    pair, paired, published = comparison.pair, comparison.paired, comparison.cell.published_difference
    if pair is None or paired is None:
        return ""
    measured = _measured_difference(comparison, pair, paired)
    if published is None:
        return measured
    metric = comparison.cell.metric
    unit = "" if published.unit == metric.unit else f" {published.unit}"
    other = "" if published.metric in ("", metric.name) else f" ({published.metric})"
    return f"{measured}; published {published.value:+g}{unit}{other}"


def published_also(cell: Cell, summary: Summary) -> Published | None:
    """The published number for one of the table's further metrics."""
    return next((p for p in cell.published_also if p.metric == summary.metric.name), None)


def _outcome(comparison: Comparison, caveat: bool) -> str:
    (summary, published), reason = comparison.judged, comparison.verdict.reason
    if reason:
        text = _REASONS[reason].format(summary=summary, published=published)
    else:
        text = _agreement(comparison.verdict, caveat)
    return f"{text}; of the difference" if comparison.on_pairs and reason is not Reason.PAIR_NOT_RUN else text


def _agreement(verdict: Verdict, caveat: bool) -> str:
    kind = verdict.kind
    if verdict.caveat is None or verdict.difference is None:
        return kind.value
    size = f"within {verdict.margin:.2g}" if kind is Kind.WITHIN else f"{kind.value} by {abs(verdict.difference):.2g}"
    return f"{size} {caveat_text(verdict.caveat)}" if caveat else size


def _measured_difference(comparison: Comparison, pair: Cell, paired: Summary) -> str:
    if paired.mean is None:
        return "–"
    like, lost = comparison.summary.mean, comparison.counts.pairs_lost
    label = pair.row if pair.column == comparison.cell.column else f"{pair.row}, {pair.column}"
    half = f" ± {number(paired.interval, like)}" if paired.interval is not None else ""
    diverged = f", {lost} lost to divergence" if lost else ""
    return f"{'+' * (paired.mean >= 0)}{number(paired.mean, like)}{half} to {label}, n {paired.n}{diverged}"


def _row(comparison: Comparison, table: Table) -> list[str]:
    cell, summary, counts = comparison.cell, comparison.summary, comparison.counts
    own = "" if cell.metric == table.metric else f" {headline(cell.metric)}"
    return [
        cell.row,
        cell.column,
        mean_sd(summary) + own,
        f"± {number(summary.interval, summary.mean)}" if summary.interval is not None else "",
        f"{summary.n}" if summary.n in (0, counts.expected) else f"{summary.n} of {counts.expected}",
        _printed(cell.published, cell.metric.unit) if cell.published else "",
        "" if comparison.difference is None else f"{comparison.difference:+.2g}",
        verdict_text(comparison),
        *(_further(cell, other) for other in comparison.also),
        *([paired_difference(comparison)] if has_pairs(table) else []),
    ]


def _further(cell: Cell, summary: Summary) -> str:
    """A further metric, with the published number if there is one: `97.85 ± 0.10; published 98.1 ± 0.2`."""
    published = published_also(cell, summary)
    return f"{mean_sd(summary)}; published {_printed(published, published.unit)}" if published else mean_sd(summary)


def _printed(published: Published, unit: str) -> str:
    """A published number as the paper prints it; the unit only where it differs from `unit`."""
    spread = f" ± {published.std:g}" if published.std is not None else ""
    return f"{published.value:g}{spread}" + ("" if published.unit == unit else f" {published.unit}")
