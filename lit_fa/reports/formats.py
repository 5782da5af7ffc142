"""A compared table in every format: console, Markdown for the card, LaTeX, CSV and JSON.

The text depends on the table file and its records only (no dates, no machine, no working folder), so that a card can
be checked by rendering it again. The formats are written here and not by pandas: every label is escaped by
`lit_fa.escaping`, and a number keeps the decimals of the mean beside it.
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from rich.table import Table as ConsoleTable
from rich.text import Text

from lit_fa.escaping import code_span, csv_value, latex_text, literal, plain, prose, shown
from lit_fa.reports.columns import fields, places
from lit_fa.reports.facts import facts, line, notes, sources
from lit_fa.reports.rows import has_pairs, headers, label, margins, published_also, rows, verdict_text
from lit_fa.results.compare import Comparison
from lit_fa.results.records import Collected
from lit_fa.results.summary import Summary
from lit_fa.results.verdict import Kind
from lit_fa.spec.command import run_command
from lit_fa.spec.table import Table

_COLOURS = {Kind.AGREES: "green", Kind.DIFFERS: "yellow", Kind.UNDECIDED: "cyan", Kind.UNDECIDABLE: "cyan"}
_COLOURS |= {Kind.MISSING: "red", Kind.FAILED: "red"}
_CSV = (
    "paper table scale row column metric unit at mean sd interval_95 n expected published published_unit "
    "published_std published_n of_difference difference difference_interval_95 margin kind verdict p_agrees "
    "holm_agrees p_differs holm_differs seeds_needed note paired_with paired_difference paired_interval_95 paired_n "
    "paired_p paired_holm diverged validation_mean validation_sd"
)


def markdown(
    collected: Collected,
    comparisons: Sequence[Comparison],
    images: Sequence[tuple[str, str]] = (),
    columns: Sequence[str] = (),
) -> str:
    """The block of a card: table, facts about the runs, assumptions, command.

    Args:
        collected: the records.
        comparisons: of them.
        images: (title, link) pairs.
        columns: names of `reports.columns`; all for none.
    """
    table, (titles, *body) = collected.table, _chosen(collected, comparisons, columns)
    lines = [_pipe(titles), _pipe(["---"] * len(titles)), *map(_pipe, body), ""]
    lines += [f"* {literal(line(*fact))}" for fact in facts(collected)]
    lines += [f"* command: {code_span(run_command(table, collected.scale))}"]
    lines += [f"* margin of agreement: {literal(margin)}: {prose(why)}" for margin, why in margins(comparisons)]
    lines += [f"* assumed: {code_span(key)}: {prose(text)}" for key, text in table.assumed.items()]
    lines += [f"* {literal(labels)}: {prose(note)}" for labels, note in notes(comparisons)]
    lines += [f"* published: {prose(source)}" for source in sources(comparisons)]
    return "\n".join([*lines, *(f"\n![{literal(title)}]({quote(link)})" for title, link in images)])


def console(collected: Collected, comparisons: Sequence[Comparison], columns: Sequence[str] = ()) -> ConsoleTable:
    """The report as a rich table, verdicts coloured."""
    table, (titles, *body) = collected.table, _chosen(collected, comparisons, columns)
    title = (table.paper.key, table.paper.table or table.name, f"{collected.scale.label} scale")
    caption = [line(*fact) for fact in facts(collected)]
    caption.append(f"command: {code_span(run_command(table, collected.scale))}")
    view = ConsoleTable(
        *map(shown, titles),
        title=Text(plain(" · ".join(filter(None, title)))),
        caption=Text("\n".join(map(plain, caption))),
        caption_justify="left",
    )
    for comparison, row in zip(comparisons, body, strict=True):
        styles = {"verdict": _COLOURS.get(comparison.kind, "")}
        view.add_row(*(Text(plain(t), styles.get(title, "")) for title, t in zip(titles, row, strict=True)))
    return view


def latex(collected: Collected, comparisons: Sequence[Comparison], columns: Sequence[str] = ()) -> str:
    """The report as a booktabs tabular; the preamble needs \\usepackage{booktabs}."""
    table, (titles, *body) = collected.table, _chosen(collected, comparisons, columns)
    sides = "ll" + "r" * 5 + "l" + "r" * len(table.also) + "l" * has_pairs(table)
    lines = [r"\begin{tabular}{" + "".join(sides[i] for i in places(table, columns)) + "}", r"\toprule"]
    lines += [_ampersand(titles), r"\midrule", *map(_ampersand, body), r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def comma_separated(collected: Collected, comparisons: Sequence[Comparison], columns: Sequence[str] = ()) -> str:
    """The report as CSV with a header line, one line a cell and metric, numbers unrounded."""
    text = io.StringIO()
    kept, metrics = fields(collected.table, columns)
    writer = csv.DictWriter(text, kept if columns else _CSV.split(), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for entry in entries(collected, comparisons):
        if not columns or entry["metric"] in metrics:
            writer.writerow({key: csv_value(value) for key, value in entry.items()})
    return text.getvalue()


def entries(collected: Collected, comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The report as plain data, one dict a cell and metric; numbers unrounded, None where there is no finite one."""
    head = {"paper": collected.table.paper.key, "table": collected.table.name, "scale": collected.scale.label}
    table = collected.table
    return [{**head, **_entry(c, s, table)} for c in comparisons for s in (c.summary, *c.also)]


def _chosen(collected: Collected, comparisons: Sequence[Comparison], columns: Sequence[str]) -> list[list[str]]:
    """The titles and then the rows, of the chosen columns."""
    kept = places(collected.table, columns)
    whole = [headers(collected.table), *rows(comparisons, collected.table)]
    return [[row[i] for i in kept] for row in whole]


def _entry(comparison: Comparison, summary: Summary, table: Table) -> dict[str, Any]:
    cell, metric, counts = comparison.cell, summary.metric, comparison.counts
    main = summary is comparison.summary
    published = comparison.published if main else published_also(cell, summary)
    held_out = comparison.validation.get(metric.name) if metric.at == "last" else None
    paired, contrast = (comparison.paired, comparison.contrast) if main else (None, None)
    return {
        "row": label(comparison),
        "column": cell.column,
        "metric": metric.name,
        "unit": metric.unit,
        "at": metric.at,
        "mean": _finite(summary.mean),
        "sd": summary.sd,
        "interval_95": summary.interval,
        "n": summary.n,
        "expected": counts.expected,
        "values": [_finite(value) for value in summary.values],
        "published": getattr(published, "value", None),
        **{f"published_{name}": getattr(published, name, None) for name in ("unit", "std", "n")},
        "of_difference": comparison.of_difference,
        **(_verdict(comparison, table) if main else {"verdict": ""}),
        "note": "; ".join(cell.notes),
        "paired_with": cell.paired_with if main else "",
        "paired_difference": _finite(getattr(paired, "mean", None)),
        "paired_interval_95": getattr(paired, "interval", None),
        "paired_n": getattr(paired, "n", None),
        "paired_p": getattr(contrast, "p", None),
        "paired_holm": getattr(contrast, "holm", None),
        "diverged": counts.diverged,
        "validation_mean": _finite(getattr(held_out, "mean", None)),
        "validation_sd": getattr(held_out, "sd", None),
    }


def _verdict(comparison: Comparison, table: Table) -> dict[str, Any]:
    """The verdict's fields; those of the evidence are None without one."""
    verdict, seen = comparison.verdict, comparison.verdict.evidence
    tests = {"agrees": verdict.agrees, "differs": verdict.differs}
    return {
        "difference": seen.difference if seen else None,
        "difference_interval_95": seen.interval if seen else None,
        "margin": seen.margin if seen else None,
        "kind": comparison.kind.value,
        "verdict": verdict_text(comparison, table),
        **{f"p_{name}": getattr(test, "p", None) for name, test in tests.items()},
        **{f"holm_{name}": getattr(test, "holm", None) for name, test in tests.items()},
        "seeds_needed": verdict.seeds,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(literal, cells)) + " |"


def _ampersand(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"
