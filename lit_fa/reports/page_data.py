"""One table of a page as plain data for the templates."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from markupsafe import Markup

from lit_fa.reports import sparklines
from lit_fa.reports.card_html import local
from lit_fa.reports.facts import duration, facts, hardware, sources
from lit_fa.reports.rows import headers, rows, verdict_text
from lit_fa.reports.svg import legend, panel_images
from lit_fa.results.compare import Comparison, Kind
from lit_fa.results.records import Collected, Record
from lit_fa.results.stale import stale_line
from lit_fa.results.summary import number
from lit_fa.spec.command import run_command
from lit_fa.spec.expand import Run

GLYPHS = dict(zip(Kind, "✓≈▲▼–○✗", strict=True))

_USUAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Section:
    """A table at one scale, compared; `folder` is that of the page, from which records are linked."""

    collected: Collected
    comparisons: Sequence[Comparison]
    folder: Path

    @property
    def name(self) -> str:
        """The table's name, unique in its paper."""
        return self.collected.table.name

    @property
    def key(self) -> str:
        """The name as part of an identifier in the page: letters, digits, dots, dashes and underscores alone."""
        return unique(self.name, re.sub(r"[^A-Za-z0-9._-]+", "-", self.name))

    @property
    def title(self) -> str:
        """What the paper calls the table."""
        return self.collected.table.paper.table or self.name

    @cached_property
    def facts(self) -> list[tuple[str, str]]:
        """(name, value) of paper, seeds, time, machine, commits; the page shows scale and command elsewhere."""
        stale = stale_line(self.collected)
        pairs = [(name, value) for name, value in facts(self.collected) if name != "scale"]
        return [*pairs, *([("today's code", stale)] if stale else [])]

    @property
    def command(self) -> str:
        """The command that makes all runs of the table."""
        return run_command(self.collected.table, self.collected.scale)

    @property
    def headers(self) -> list[str]:
        """Titles of the columns."""
        return headers(self.collected.table)

    @property
    def sources(self) -> list[str]:
        """Where the published numbers come from."""
        return sources(self.comparisons)

    @property
    def overrides(self) -> str:
        """What the scale changes in every cell, as YAML."""
        return as_yaml(self.collected.scale.set)

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """A dict for every cell, with the texts of its row in the table and its runs."""
        texts = rows(self.comparisons, self.collected.table)
        pictures = sparklines.intervals(self.comparisons)
        return [self._cell(*entry) for entry in zip(self.comparisons, texts, pictures, strict=True)]

    @cached_property
    def figures(self) -> list[dict[str, Any]]:
        """The declared figures that any record has data for."""
        collected = self.collected
        drawn = [
            {
                "title": figure.title or figure.y,
                "wide": figure.kind == "bars",
                "panels": [
                    (title, Markup(svg)) for title, svg in panel_images(collected, figure, f"{self.key}-figure{i}")
                ],
                "legend": legend(collected, figure),
                "hline": figure.hline.get("label"),
            }
            for i, figure in enumerate(collected.table.figures)
        ]
        return [figure for figure in drawn if figure["panels"]]

    @cached_property
    def partitions(self) -> list[tuple[str, Markup]]:
        """(columns, picture) of every different partition among the first seeds of the cells."""
        columns: dict[str, list[str]] = {}
        for cell in self.collected.cells:
            for record in self.collected.of(cell)[:1]:
                if counts := sparklines.counts_of(record):
                    columns.setdefault(sparklines.partition(counts), []).append(cell.column)
        return [(", ".join(filter(None, dict.fromkeys(labels))), picture) for picture, labels in columns.items()]

    def _cell(self, c: Comparison, texts: list[str], picture: Markup) -> dict[str, Any]:
        runs = [run for run in self.collected.runs if run.cell is c.cell]
        records = {record.seed: record for record in self.collected.of(c.cell)}
        ended = records | {record.seed: record for record in self.collected.lost(c.cell)}
        return {
            "anchor": self._anchor("cell", runs),
            "label": ", ".join(part for part in (c.cell.row, c.cell.column) if part),
            "texts": texts,
            "picture": picture,
            "kind": c.kind,
            "glyph": GLYPHS[c.kind],
            "verdict": verdict_text(c, caveat=False),
            "reduced": c.verdict.caveat is not None and not c.counts.unlogged,
            "note": "; ".join(c.cell.notes),
            "overrides": as_yaml(c.cell.set),
            "command": run_command(self.collected.table, self.collected.scale, c.cell),
            "runs": [self._run(c, run, ended.get(run.seed)) for run in runs],
            "seeds": list(records),
            "metrics": _metrics(list(records.values())),
            "curves": _curves(list(records.values())),
        }

    def _run(self, c: Comparison, run: Run, record: Record | None) -> dict[str, Any]:
        seen = {"seed": run.seed, "command": run_command(self.collected.table, self.collected.scale, c.cell, run.seed)}
        seen |= {"anchor": self._anchor("run", [run]), "record": None}
        if record is None:
            return seen
        data, value = record.data, record.value(c.cell.metric)
        shown = f"{number(value)} {c.cell.metric.unit}" if value is not None else "no number"
        return seen | {
            "record": quote(local(Path(relpath(record.path, self.folder)))),
            "id": data["id"],
            "value": f"diverged {record.diverged}" if record.diverged else shown,
            "facts": _facts(data),
            "broken": data.get("broken") or [],
        }

    def _anchor(self, kind: str, runs: Sequence[Run]) -> str:
        """Unique in the page, for file names are within a table."""
        return f"{kind}-{self.key}-{Path(runs[0].file_name).stem}"


def unique(name: str, reduced: str) -> str:
    """`reduced`, with some digits of `name` where that has other characters, so that two names never become one."""
    return reduced if _USUAL.fullmatch(name) else f"{reduced}-{sha256(name.encode()).hexdigest()[:6]}"


def as_yaml(data: dict) -> str:
    """A dict as block YAML, empty for an empty one."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100).rstrip() if data else ""


def _facts(data: dict) -> list[tuple[str, str]]:
    """What a record says of its run beside its numbers; what it lacks is left out."""
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
    """(key, picture, range) of every curve, one line a seed; a curve that never moves has no picture."""
    shown = []
    for key in sorted({key for record in records for key in record.data["curves"]}):
        lines = [[(step, value) for step, _, value in record.curve(key)] for record in records]
        values = [value for line in lines for _, value in line if math.isfinite(value)]
        if len(set(values)) > 1:
            spread = f"{number(min(values))} to {number(max(values))}"
            shown.append((key, sparklines.curve(lines, f"{key}, {spread}"), spread))
    return shown
