"""The cells of a report as text: measured, published, difference and verdict."""

from collections.abc import Sequence

from lit_fa.results.compare import Comparison
from lit_fa.results.summary import Summary, headline, mean_sd, number
from lit_fa.results.verdict import Kind, PValue, Reason, Verdict
from lit_fa.spec.table import Cell, Published, Table

_REASONS = {
    Reason.NOT_RUN: "not run",
    Reason.NOT_FINITE: "not finite in {summary.not_finite} of {summary.n} runs",
    Reason.UNPUBLISHED: "no published number",
    Reason.OTHER_UNIT: "not comparable (published in {published.unit}, measured in {summary.metric.unit})",
    Reason.OTHER_METRIC: "not comparable (published is {published.metric}, measured is {summary.metric.name})",
    Reason.OTHER_POINT: "not comparable (published is {published.at}, measured is {summary.metric.at})",
    Reason.PAIR_NOT_RUN: "not comparable (its pair is not run)",
    Reason.REDUCED: "not the paper's protocol",
    Reason.OTHER_END: "not the paper's protocol ({published.ends})",
    Reason.OTHER_PROTOCOL: "not the paper's protocol ({published.protocol})",
    Reason.CONTROL_NOT_RUN: "no verdict (the positive control, {control}, has fewer than two runs)",
    Reason.NO_POWER: "no power here ({control} does not beat a constant prediction)",
}


def headers(table: Table) -> list[str]:
    """The titles of the report's columns."""
    main = [
        "row",
        "column",
        headline(table.metric),
        "95 % of the mean",
        "n",
        "published",
        "difference (95 %)",
        "verdict",
    ]
    also = [headline(metric) for metric in table.also]
    return [*main, *also, *(["less its pair, seed by seed (95 %)"] if has_pairs(table) else [])]


def has_pairs(table: Table) -> bool:
    """Whether any cell is paired with another, so that the report has a column of paired differences."""
    return any(cell.paired_with for cell in table.cells)


def rows(comparisons: Sequence[Comparison], table: Table) -> list[list[str]]:
    """The report's cells as text, one list a row."""
    return [_row(comparison, table) for comparison in comparisons]


def label(comparison: Comparison) -> str:
    """The text of the row's first column."""
    cell, pair = comparison.cell, comparison.pair
    return f"{cell.row} less {_pair_label(cell, pair)}" if comparison.of_difference and pair else cell.row


def verdict_text(comparison: Comparison, table: Table) -> str:
    """The verdict in words, with the number of runs behind it where some are missing."""
    counts, n, metric = comparison.counts, comparison.summary.n, comparison.summary.metric
    text = _outcome(comparison, table)
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


def paired_difference(comparison: Comparison) -> str:
    """`+0.12 ± 0.30 to FedAvg, n 5 (p 0.41, Holm 1)`: mean difference and half its 95 % Student interval.

    Empty without a pair, and in the row of a published difference, whose numbers these are.
    """
    pair, paired, contrast = comparison.pair, comparison.paired, comparison.contrast
    if pair is None or paired is None or comparison.of_difference:
        return ""
    text = _measured_difference(comparison, pair, paired)
    return f"{text} ({_p_value(contrast)})" if contrast else text


def margins(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """(margin with its unit, reason) of every margin that a published number of the table is judged by."""
    judged = [c.cell for c in comparisons if c.published and c.cell.accept]
    pairs = [(f"{cell.accept.margin:g} {cell.metric.unit}", cell.accept.why) for cell in judged if cell.accept]
    return list(dict.fromkeys(pairs))


def published_also(cell: Cell, summary: Summary) -> Published | None:
    """The published number for one of the table's further metrics."""
    return next((p for p in cell.published_also if p.metric == summary.metric.name), None)


def _outcome(comparison: Comparison, table: Table) -> str:
    reason = comparison.verdict.reason
    if not reason:
        return _judged(comparison.verdict)
    control = table.control.row if table.control else ""
    return _REASONS[reason].format(summary=comparison.summary, published=comparison.published, control=control)


def _judged(verdict: Verdict) -> str:
    """`agrees (p 0.003, Holm 0.012)`."""
    if verdict.kind is Kind.AGREES:
        return f"agrees ({_p_value(verdict.agrees)})"
    if verdict.kind is Kind.DIFFERS:
        return f"differs ({_p_value(verdict.differs)})"
    if verdict.kind is Kind.UNDECIDABLE:
        return "undecided by any number of seeds"
    if verdict.evidence is None:
        return "undecided: one run"
    return f"undecided: {verdict.seeds or 'more than 10,000'} seeds would decide"


def _p_value(value: PValue | None) -> str:
    """`p 0.003, Holm 0.012`."""
    pairs = [("p", value.p), ("Holm", value.holm)] if value else []
    return ", ".join(f"{name} {f'{p:.2g}' if p >= 0.001 else '< 0.001'}" for name, p in pairs)


def _pair_label(cell: Cell, pair: Cell) -> str:
    return pair.row if pair.column == cell.column else f"{pair.row}, {pair.column}"


def _measured_difference(comparison: Comparison, pair: Cell, paired: Summary) -> str:
    if paired.mean is None:
        return "–"
    like, counts = comparison.summary.mean, comparison.counts
    text = f"{signed(paired.mean, paired.interval, like)} to {_pair_label(comparison.cell, pair)}, n {paired.n}"
    diverged = f", {counts.pairs_lost} lost to divergence" if counts.pairs_lost else ""
    starts = f", {counts.unequal_starts} from different pre-trained weights" if counts.unequal_starts else ""
    return text + diverged + starts


def signed(value: float, half: float | None, like: float | None = None) -> str:
    """`+0.12 ± 0.30`, with the decimals of `like`."""
    interval = f" ± {number(half, like)}" if half is not None else ""
    return f"{'+' * (value >= 0)}{number(value, like)}{interval}"


def _row(comparison: Comparison, table: Table) -> list[str]:
    cell, summary, counts = comparison.cell, comparison.summary, comparison.counts
    own = "" if cell.metric == table.metric else f" {headline(cell.metric)}"
    seen, published = comparison.verdict.evidence, comparison.published
    return [
        label(comparison),
        cell.column,
        _with_validation(summary, comparison) + own,
        f"± {number(summary.interval, summary.mean)}" if summary.interval is not None else "",
        f"{summary.n}" if summary.n in (0, counts.expected) else f"{summary.n} of {counts.expected}",
        _printed(published, cell.metric.unit) if published else "",
        signed(seen.difference, seen.interval, summary.mean) if seen else "",
        verdict_text(comparison, table),
        *([""] * len(table.also) if comparison.of_difference else (_further(comparison, s) for s in comparison.also)),
        *([paired_difference(comparison)] if has_pairs(table) else []),
    ]


def _further(comparison: Comparison, summary: Summary) -> str:
    """A further metric, with the published number if there is one: `97.85 ± 0.10; published 98.1 ± 0.2 (best)`."""
    published, text, metric = (
        published_also(comparison.cell, summary),
        _with_validation(summary, comparison),
        summary.metric,
    )
    if published is None:
        return text
    other_point = published.at if published.at not in (None, metric.at) else ""
    notes = ", ".join(filter(None, (other_point, published.protocol)))
    return f"{text}; published {_printed(published, metric.unit)}" + (f" ({notes})" if notes else "")


def _with_validation(summary: Summary, comparison: Comparison) -> str:
    """A score, and beside a test score that of held-out data: `97.85 ± 0.10 (validation 97.60 ± 0.12)`."""
    held_out = comparison.validation.get(summary.metric.name) if summary.metric.at == "last" else None
    return mean_sd(summary) + (f" (validation {mean_sd(held_out)})" if held_out else "")


def _printed(published: Published, unit: str) -> str:
    """A published number as the paper prints it; the unit only where it differs from `unit`."""
    spread = f" ± {published.std:g}" if published.std is not None else ""
    return f"{published.value:g}{spread}" + ("" if published.unit == unit else f" {published.unit}")
