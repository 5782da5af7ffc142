"""One table of a page as plain data for the templates."""

import math
import re
import shlex
from collections.abc import Sequence
from hashlib import sha256
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from markupsafe import Markup

from lit_fa.reports import sparklines
from lit_fa.reports.card_html import local
from lit_fa.reports.columns import INTERVAL, VALUE, places
from lit_fa.reports.facts import duration, facts, hardware, sources
from lit_fa.reports.figures import note
from lit_fa.reports.rows import headers, label, rows, verdict_text
from lit_fa.reports.svg import legend, panel_images
from lit_fa.results.compare import Comparison
from lit_fa.results.records import Collected, Record
from lit_fa.results.stale import stale_line
from lit_fa.results.summary import number
from lit_fa.results.verdict import Kind, Reason
from lit_fa.spec.command import only_option, run_command
from lit_fa.spec.expand import Run

GLYPHS = dict(zip(Kind, "✓≠?∞–○✗", strict=True))

_LINES = 16  # of a small picture
_USUAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def section(
    collected: Collected, comparisons: Sequence[Comparison], folder: Path, columns: Sequence[str] = ()
) -> dict[str, Any]:
    """A table at one scale; `folder` is that of the page, from which records are linked.

    `columns` are names of `reports.columns`; all for none.
    """
    table, scale, stale = collected.table, collected.scale, stale_line(collected)
    key = unique(table.name, re.sub(r"[^A-Za-z0-9._-]+", "-", table.name))
    pairs = [(name, value) for name, value in facts(collected) if name != "scale"]
    command = run_command(table, scale)
    texts, pictures = rows(comparisons, table), sparklines.intervals(comparisons)
    return {
        "collected": collected,
        "comparisons": comparisons,
        "name": table.name,
        "key": key,  # begins every id: letters, digits, dots, dashes and underscores alone
        "title": table.paper.table or table.name,
        "facts": [*pairs, *([("today's code", stale)] if stale else [])],
        "command": command,
        "headers": headers(table),
        "columns": (shown := places(table, columns)),
        "pictured": next((i for i in (INTERVAL, VALUE) if i in shown), None),  # the column that the pictures follow
        "axes": sparklines.axes(comparisons),
        "sources": sources(comparisons),
        "overrides": as_yaml(scale.set),
        "cells": [
            {**_cell(collected, comparison, key, folder, command), "texts": row, "picture": picture}
            for comparison, row, picture in zip(comparisons, texts, pictures, strict=True)
        ],
        "figures": _figures(collected, key),
        "partitions": _partitions(collected),
    }


def _figures(collected: Collected, key: str) -> list[dict[str, Any]]:
    """The declared figures that any record has data for."""
    views = [
        {
            "title": figure.title or figure.y,
            "wide": figure.kind in ("bars", "dots", "depth"),
            "panels": [(title, Markup(svg)) for title, svg in panel_images(collected, figure, f"{key}-figure{i}")],
            "legend": [(label, Markup(sample)) for label, sample in legend(collected, figure)],
            "note": note(collected, figure),
            "hline": figure.hline.get("label"),
        }
        for i, figure in enumerate(collected.table.figures)
    ]
    return [view for view in views if view["panels"]]


def _partitions(collected: Collected) -> list[tuple[str, Markup]]:
    """(columns, picture) of every different partition among the first seeds of the cells."""
    columns: dict[Markup, list[str]] = {}
    for cell in collected.cells:
        for record in collected.of(cell)[:1]:
            if counts := sparklines.counts_of(record):
                columns.setdefault(sparklines.partition(counts), []).append(cell.column)
    return [(", ".join(filter(None, dict.fromkeys(labels))), picture) for picture, labels in columns.items()]


def _cell(collected: Collected, c: Comparison, key: str, folder: Path, command: str) -> dict[str, Any]:
    """A row of the table and its runs; `command` runs the whole table."""
    runs = collected.runs_of(c.cell.id)
    command = f"{command} {shlex.join(only_option(collected.table, c.cell))}"
    finished = () if c.of_difference else collected.of(c.cell)  # the runs are shown once, with the cell
    ended = {record.seed: record for record in (*finished, *collected.lost(c.cell))}
    return {
        "anchor": _anchor("difference" if c.of_difference else "cell", key, runs[0]),
        "label": ", ".join(filter(None, (label(c), c.cell.column))),
        "kind": c.kind,
        "glyph": GLYPHS[c.kind],
        "verdict": verdict_text(c, collected.table),
        "reduced": c.verdict.reason is Reason.REDUCED and not c.counts.unlogged,
        "note": "; ".join(c.cell.notes),
        "overrides": as_yaml(c.cell.set),
        "command": command,
        "runs": [_run(run, ended.get(run.seed), key, folder, command) for run in (() if c.of_difference else runs)],
        "seeds": [record.seed for record in finished],
        "metrics": _metrics(finished),
        "curves": _curves(finished),
    }


def _run(run: Run, record: Record | None, key: str, folder: Path, command: str) -> dict[str, Any]:
    view = {"seed": run.seed, "command": f"{command} --seeds {run.seed}"}
    view |= {"anchor": _anchor("run", key, run), "record": None}
    if record is None:
        return view
    value = record.value(run.cell.metric)
    text = f"{number(value)} {run.cell.metric.unit}" if value is not None else "no number"
    return view | {
        "record": quote(local(Path(relpath(record.path, folder)))),
        "id": record.data["id"],
        "value": f"diverged {record.diverged}" if record.diverged else text,
        "facts": _facts(record.data),
        "broken": record.data.get("broken") or [],
    }


def _anchor(kind: str, key: str, run: Run) -> str:
    """An id that is unique in the page, because names of records are unique in a table."""
    return f"{kind}-{key}-{Path(run.file_name).stem}"


def unique(name: str, reduced: str) -> str:
    """`reduced`, with a hash of `name` if characters were lost, so that two names never become one."""
    return reduced if _USUAL.fullmatch(name) else f"{reduced}-{sha256(name.encode()).hexdigest()[:6]}"


def as_yaml(data: dict[str, Any]) -> str:
    """A dict as block YAML, empty for an empty one."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100).rstrip() if data else ""


def _facts(data: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts that a record has about its run."""
    commit = str(data.get("commit", "unknown"))
    pairs = [
        ("commit", commit[:12] + (" with uncommitted changes" if data.get("dirty") else "")),
        ("wall time", duration(data["wall_time_s"]) if data.get("wall_time_s") else ""),
        ("CPU time", duration(data["cpu_time_s"]) if data.get("cpu_time_s") else ""),
        ("peak memory", f"{data['peak_memory_mib']:.0f} MiB" if data.get("peak_memory_mib") else ""),
        ("hardware", hardware(data.get("hardware"))),
        ("executed by", str(data.get("executed_by") or "")),
        ("versions", ", ".join(f"{name} {v}" for name, v in (data.get("versions") or {}).items() if v)),
        ("begun", str(data.get("started") or "")),
        ("validated on", "the test set" if data.get("validation_is_test") else ""),
    ]
    return [(what, value) for what, value in pairs if value]


def _metrics(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Every final metric and its value in each record."""
    keys = dict.fromkeys(key for record in records for key in record.data["metrics"])
    return [(key, [number(record.data["metrics"].get(key)) for record in records]) for key in sorted(keys)]


def _curves(records: Sequence[Record]) -> list[tuple[str, Markup, str]]:
    """(key, picture, range) of every curve, one line a seed; a curve that never moves has no picture.

    The range is over all seeds; of many, as many are drawn as can be told apart.
    """
    shown, drawn = [], records[:: max(1, -(-len(records) // _LINES))]
    for key in sorted({key for record in records for key in record.data["curves"]}):
        curves = [record.data["curves"].get(key, ()) for record in records]
        values = [value for curve in curves for _, _, value in curve if math.isfinite(value)]
        if values and (low := min(values)) < (high := max(values)):
            spread = f"{number(low)} to {number(high)}"
            lines = [[(step, value) for step, _, value in record.curve(key)] for record in drawn]
            of_many = f", {len(drawn)} of {len(records)} seeds" if len(drawn) < len(records) else ""
            shown.append((key, sparklines.curve(lines, f"{key}, {spread}{of_many}"), spread))
    return shown
