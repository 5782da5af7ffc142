"""A compared table as text: markdown for the card, a console table, CSV and LaTeX.

Rendering depends on the table file and its records only (no dates, no machine, no working folder), so that a card can
be told stale by rendering it again.
"""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from rich.table import Table as ConsoleTable
from rich.text import Text

from lit_fa.escaping import code_span, csv_value, latex_text, literal, plain, prose, shown
from lit_fa.results.compare import Comparison, Summary
from lit_fa.results.records import Collected
from lit_fa.spec.command import run_command
from lit_fa.spec.table import Cell, Metric, Published, Table

_COLOURS = {"reproduced": "green", "within": "cyan", "above": "yellow", "below": "yellow"}
_COLOURS |= {"not": "red", "diverged": "red"}
_CSV = (
    "paper table scale row column metric unit at mean sd interval_95 n expected published published_unit "
    "published_std published_n difference verdict note paired_with paired_difference paired_interval_95 paired_n "
    "published_paired published_paired_unit diverged"
)


def number(value: float | None, like: float | None = None) -> str:
    """A number with the decimals of `like`: four digits and at least two decimals, an exponent at the extremes.

    >>> number(97.846), number(0.99553), number(0.1, like=97.8), number(3e-7)
    ('97.85', '0.9955', '0.10', '3.00e-07')
    """
    if value is None:
        return ""
    size = abs(value if like is None else like)
    if value == 0 or not 1e-3 <= size < 1e5:
        return f"{value:.2e}" if value else "0"
    return f"{value:.{max(2, 3 - math.floor(math.log10(size)))}f}"


def mean_sd(summary: Summary) -> str:
    """`97.85 ± 0.10`, the mean alone for a single run, a dash for none."""
    if summary.mean is None:
        return "–"
    return number(summary.mean) + (f" ± {number(summary.sd, summary.mean)}" if summary.sd is not None else "")


def headline(metric: Metric) -> str:
    """A metric as a column's title: name, unit, and the point of the curve where that is not the last."""
    point = "" if metric.at == "last" else f", {metric.at.replace('_', ' ')}"
    return f"{metric.name} ({metric.unit}{point})"


def headers(table: Table) -> list[str]:
    """The titles of the report's columns."""
    also = [headline(metric) for metric in table.also]
    return [
        "row",
        "column",
        headline(table.metric),
        "95 % of the mean",
        "n",
        "published",
        "difference",
        "verdict",
        *also,
        *(["less its pair, seed by seed (95 %)"] if _has_pairs(table) else []),
    ]


def paired_difference(comparison: Comparison) -> str:
    """`+0.12 ± 0.30 to FedAvg, n 5; published +0.4`: the mean difference and half its 95 % Student interval.

    Empty without a pair.
    """
    found, printed = comparison.paired, comparison.cell.published_difference
    if found is None:
        return ""
    told = _measured_difference(comparison) if found.mean is not None else "–"
    if printed is None:
        return told
    metric = comparison.cell.metric
    unit = "" if printed.unit == metric.unit else f" {printed.unit}"
    of = "" if printed.metric in ("", metric.name) else f" ({printed.metric})"
    return f"{told}; published {printed.value:+g}{unit}{of}"


def _measured_difference(comparison: Comparison) -> str:
    found, like = comparison.paired, comparison.summary.mean
    row, _, column = comparison.cell.paired_with.partition("|")
    pair = row if column == comparison.cell.column else f"{row}, {column}"
    half = f" ± {number(found.interval, like)}" if found.interval is not None else ""
    lost = f", {comparison.pairs_lost} lost to divergence" if comparison.pairs_lost else ""
    return f"{'+' * (found.mean >= 0)}{number(found.mean, like)}{half} to {pair}, n {found.n}{lost}"


def rows(comparisons: Sequence[Comparison], table: Table) -> list[list[str]]:
    """The report's cells as text, one list a row."""
    return [_row(comparison, table) for comparison in comparisons]


def markdown(collected: Collected, comparisons: Sequence[Comparison], images: Sequence[tuple[str, str]] = ()) -> str:
    """The block of a card: table, facts about the runs, assumptions, command; `images` are (title, link) pairs."""
    table = collected.table
    lines = [_pipe(headers(table)), _pipe(["---"] * len(headers(table))), *map(_pipe, rows(comparisons, table)), ""]
    *said, command = facts(collected)
    lines += [*(f"* {literal(fact)}" for fact in said), f"* {command}"]
    lines += [f"* assumed: {code_span(key)}: {prose(text)}" for key, text in table.assumed.items()]
    lines += [f"* {literal(labels)}: {prose(note)}" for labels, note in _notes(comparisons)]
    lines += [prose(line) for line in sources(comparisons)]
    lines += [f"\n![{literal(title)}]({quote(link)})" for title, link in images]
    return "\n".join(lines)


def _notes(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, str]]:
    """(labels, note) of each note, once."""
    cells = [c.cell for c in comparisons]
    for note in dict.fromkeys(note for cell in cells for note in cell.notes):
        yield _whole([cell for cell in cells if note in cell.notes], cells), note


def _whole(said: Sequence[Cell], cells: Sequence[Cell]) -> str:
    """The columns or rows that `said` are all cells of; else every cell's own label."""
    for axis in ("column", "row") if len(said) > 1 else ("row",):
        labels = dict.fromkeys(getattr(cell, axis) for cell in said)
        if all(labels) and len(said) == sum(getattr(cell, axis) in labels for cell in cells):
            return ", ".join(labels)
    return "; ".join(", ".join(filter(None, (cell.row, cell.column))) for cell in said)


def facts(collected: Collected) -> list[str]:
    """Paper, scale, seeds, time, hardware, commits and command, each a line; and where runs diverged."""
    table, scale, records = collected.table, collected.scale, collected.ended
    data = [record.data for record in records]
    paper, dirty = table.paper, sum(bool(entry.get("dirty")) for entry in data)
    lines = [
        ", ".join(
            part for part in (paper.title or paper.key, paper.arxiv and f"arXiv:{paper.arxiv}", paper.table) if part
        )
    ]
    lines.append(f"scale: {scale.name}" + (f" ({scale.note})" if scale.note else ""))
    finished = f"{len(collected.all)} of {len(collected.runs)} runs finished"
    lines.append(f"seeds: {', '.join(map(str, scale.seeds))}; {finished}")
    lines += [f"diverged: {line}" for line in _divergences(collected)]
    if records:
        lines.append(f"wall time, all runs: {duration(sum(entry.get('wall_time_s') or 0 for entry in data))}")
        lines += _cpu_time(data)
        lines.append(f"hardware: {'; '.join(sorted({hardware(entry.get('hardware')) for entry in data}))}")
        lines.append(f"commits: {', '.join(sorted({str(entry.get('commit', 'unknown'))[:7] for entry in data}))}")
    if dirty:
        lines.append(f"{dirty} of {len(records)} runs are from a tree with uncommitted changes")
    return [*lines, f"command: {code_span(run_command(table, scale))}"]


def _divergences(collected: Collected) -> list[str]:
    """`FA, width 32, seed 0 at step 40 (the output of head)`, for every run that diverged."""
    lost = [(cell, record) for cell in collected.cells for record in collected.lost(cell)]
    labels = {(run.cell.id, run.seed): run.label for run in collected.runs}
    return [f"{labels[cell.id, record.seed]} {record.diverged}" for cell, record in lost]


def _cpu_time(data: Sequence[dict]) -> list[str]:
    """The line of processor time, of the records that have it: older ones do not."""
    spent = [entry["cpu_time_s"] for entry in data if entry.get("cpu_time_s") is not None]
    runs = "all runs" if len(spent) == len(data) else f"the {len(spent)} runs that recorded it"
    return [f"CPU time, {runs}: {duration(sum(spent))}"] if spent else []


def console(collected: Collected, comparisons: Sequence[Comparison]) -> ConsoleTable:
    """The report as a rich table, verdicts coloured."""
    table = collected.table
    title = " · ".join(
        part for part in (table.paper.key, table.paper.table or table.name, f"{collected.scale.name} scale") if part
    )
    drawn = ConsoleTable(
        *map(shown, headers(table)),
        title=Text(plain(title)),
        caption=Text("\n".join(map(plain, facts(collected)))),
        caption_justify="left",
    )
    for comparison, row in zip(comparisons, rows(comparisons, table), strict=True):
        colour = _COLOURS.get(comparison.verdict.split(" ")[0].rstrip(";"), "")
        drawn.add_row(*(Text(plain(text), style=colour if i == 7 else "") for i, text in enumerate(row)))
    return drawn


def entries(collected: Collected, comparisons: Sequence[Comparison]) -> list[dict]:
    """The report as plain data, one dict a cell and metric; numbers unrounded, None where there is no finite one."""
    head = {"paper": collected.table.paper.key, "table": collected.table.name, "scale": collected.scale.name}
    return [{**head, **_entry(c, s)} for c in comparisons for s in (c.summary, *c.also)]


def comma_separated(collected: Collected, comparisons: Sequence[Comparison]) -> str:
    """The report as CSV with a header line, one line a cell and metric, numbers unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV.split(), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    lines = [{key: csv_value(value) for key, value in entry.items()} for entry in entries(collected, comparisons)]
    writer.writerows(lines)
    return text.getvalue()


def latex(collected: Collected, comparisons: Sequence[Comparison]) -> str:
    """The report as a booktabs tabular; the preamble needs \\usepackage{booktabs}."""
    table = collected.table
    further = "r" * len(table.also) + "l" * _has_pairs(table)
    lines = [r"\begin{tabular}{ll" + "r" * 5 + "l" + further + "}", r"\toprule"]
    lines += [_ampersand(headers(table)), r"\midrule", *map(_ampersand, rows(comparisons, table)), r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def duration(seconds: float) -> str:
    """`42 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def hardware(entry: dict | None) -> str:
    """One line about a machine from a record's `hardware`."""
    entry = entry or {}
    cores = f"{entry['cores']} cores" if entry.get("cores") else ""
    threads = f"{entry['threads']} thread{'s' * (entry['threads'] != 1)} a run" if entry.get("threads") else ""
    memory = f"{entry['memory_gib']:.0f} GiB" if entry.get("memory_gib") else ""
    return (
        ", ".join(str(part) for part in (entry.get("gpu"), entry.get("cpu"), cores, threads, memory) if part)
        or "unknown"
    )


def _row(comparison: Comparison, table: Table) -> list[str]:
    cell, summary, published = comparison.cell, comparison.summary, comparison.cell.published
    own = "" if cell.metric == table.metric else f" {headline(cell.metric)}"
    printed = f"{published.value:g}" if published else ""
    if published and published.std is not None:
        printed += f" ± {published.std:g}"
    if published and published.unit != cell.metric.unit:
        printed += f" {published.unit}"
    difference = "" if comparison.difference is None else f"{comparison.difference:+.2g}"
    interval = f"± {number(summary.interval, summary.mean)}" if summary.interval is not None else ""
    count = f"{summary.n}" if summary.n in (0, comparison.expected) else f"{summary.n} of {comparison.expected}"
    also = [_beside(cell, other) for other in comparison.also]
    return [
        cell.row,
        cell.column,
        mean_sd(summary) + own,
        interval,
        count,
        printed,
        difference,
        comparison.verdict,
        *also,
        *([paired_difference(comparison)] if _has_pairs(table) else []),
    ]


def _beside(cell: Cell, summary: Summary) -> str:
    """A further metric, with what the paper prints for it: `97.85 ± 0.10; published 98.1 ± 0.2`."""
    published = _published(cell, summary)
    printed = f"{published.value:g}" if published else ""
    printed += f" ± {published.std:g}" if published and published.std is not None else ""
    return f"{mean_sd(summary)}; published {printed}" if published else mean_sd(summary)


def _published(cell: Cell, summary: Summary) -> Published | None:
    return next((p for p in cell.published_also if p.metric == summary.metric.name), None)


def _has_pairs(table: Table) -> bool:
    return any(cell.paired_with for cell in table.cells)


def _entry(comparison: Comparison, summary: Summary) -> dict:
    cell, metric = comparison.cell, summary.metric
    main = summary is comparison.summary
    published = cell.published if main else _published(cell, summary)
    paired = comparison.paired if main else None
    printed = cell.published_difference if main else None
    return {
        "row": cell.row,
        "column": cell.column,
        "metric": metric.name,
        "unit": metric.unit,
        "at": metric.at,
        "mean": _finite(summary.mean),
        "sd": summary.sd,
        "interval_95": summary.interval,
        "n": summary.n,
        "expected": comparison.expected,
        "values": [_finite(value) for value in summary.values],
        "published": published.value if published else None,
        "published_unit": published.unit if published else None,
        "published_std": published.std if published else None,
        "published_n": published.n if published else None,
        "difference": _finite(comparison.difference) if main else None,
        "verdict": comparison.verdict if main else "",
        "note": "; ".join(cell.notes),
        "paired_with": cell.paired_with if main else "",
        "paired_difference": _finite(paired.mean) if paired else None,
        "paired_interval_95": paired.interval if paired else None,
        "paired_n": paired.n if paired else None,
        "published_paired": printed.value if printed else None,
        "published_paired_unit": printed.unit if printed else None,
        "diverged": comparison.diverged,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def sources(comparisons: Sequence[Comparison]) -> list[str]:
    """Where the published numbers come from, each source and protocol once."""
    cells = [c.cell for c in comparisons]
    published = [p for cell in cells for p in (cell.published, cell.published_difference, *cell.published_also) if p]
    told = dict.fromkeys("; ".join(part for part in (p.source, p.protocol) if part) for p in published)
    return [f"* published: {line}" for line in told if line]


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(literal, cells)) + " |"


def _ampersand(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"
