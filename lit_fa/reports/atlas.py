"""The atlas: one page with all nominal cells, measured beside published, and the same as CSV and Parquet."""

import csv
import importlib.util
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from lit_fa.errors import UserError
from lit_fa.escaping import csv_value
from lit_fa.outputs import write_text, written
from lit_fa.reports.pages import page_script, templates
from lit_fa.reports.scatter import LOOKS, Pair, draw, images, kinds, note
from lit_fa.reports.svg import marker_sample, page_colours
from lit_fa.results.atlas import Entry, NominalCell
from lit_fa.results.settled import LEADING, State

COLUMNS = (
    *("origin", "rule", "network", "data", "federated", "value", "std", "interval", "runs", "layers", "training"),
    *("epochs", "selection", "scale", "verdict", "source", "label", "read", "note", "links"),
)
FORMATS = ("html", "csv", "parquet", "svg")


@dataclass(frozen=True)
class Atlas:
    """What the page shows: the cells, the counts of published numbers by state, and (published, measured) pairs."""

    cells: tuple[NominalCell, ...]
    counts: Counter[State]
    pairs: tuple[Pair, ...]


def write_atlas(atlas: Atlas, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes `atlas.html`, `.csv`, `.parquet` and the scatter, `atlas.svg`, into `folder`; returns their paths.

    Raises:
        UserError: a file cannot be written, or pyarrow is missing for Parquet.
    """
    rows = [row(entry) for cell in atlas.cells for entry in cell.entries]
    writers = {"html": lambda path: write_text(path, page(atlas, folder), "--write", follow=False)}
    writers["csv"] = lambda path: write_text(path, _csv(rows), "--write", follow=False)
    writers["svg"] = lambda path: draw(atlas.pairs, path)
    writers["parquet"] = lambda path: _parquet(rows, path)
    return [writers[ending](folder / f"atlas.{ending}") for ending in formats]


def check_formats(formats: Sequence[str]) -> None:
    """Refuse Parquet where pyarrow, which writes it, is not installed.

    Raises:
        UserError: with the remedy.
    """
    if "parquet" in formats and not importlib.util.find_spec("pyarrow"):
        raise UserError("Parquet needs pyarrow: pip install pyarrow, or --format html csv")


def row(entry: Entry) -> dict[str, Any]:
    """An entry as one row, in the order of `COLUMNS`; None for what is unknown."""
    nominal, kind = entry.nominal, entry.kind
    fields = vars(entry) | vars(nominal) | {"verdict": kind.value if kind else None, "links": " ".join(entry.links)}
    return {name: fields[name] for name in COLUMNS}


def page(atlas: Atlas, folder: Path) -> str:
    """The page as HTML; links are relative to `folder`."""
    views = [_view(cell, folder.resolve()) for cell in atlas.cells]
    context = {
        "cells": views,
        "states": [(state, atlas.counts[state]) for state in LEADING if atlas.counts[state]],
        "declared": atlas.counts.total(),
        "contradicted": sum(view["contradicted"] for view in views),
        "measured": sum(bool(cell.of("measured")) for cell in atlas.cells),
        "entries": sum(len(cell.entries) for cell in atlas.cells),
        "panels": [Markup(image) for image in images(atlas.pairs, "scatter")],
        "legend": [(f"{kind} ({count})", _sample(kind)) for kind, count in kinds(atlas.pairs).items()],
        "note": note(atlas.pairs),
        "choices": {name: _choices(atlas.cells, name) for name in ("rule", "network", "data")},
    }
    return templates().get_template("atlas.html").render(context | page_script("page.js", "atlas.js"))


def _view(cell: NominalCell, folder: Path) -> dict[str, Any]:
    pairs = cell.contradictions
    return {
        "nominal": cell.nominal,
        "measured": _measured(cell),
        "published": [f"{value(entry)} {entry.source.split(',')[0]}" for entry in cell.of("published")],
        "imported": len(cell.of("imported")),
        "contradicted": bool(pairs),
        "apart": max((high.value - low.value for low, high in pairs), default=0.0),
        "entries": [_entry(entry, folder) for entry in cell.entries],
    }


def _measured(cell: NominalCell) -> str:
    """Our number at the paper's scale; else at a reduced one; a range if several rows of tables measure the cell."""
    measured = cell.of("measured")
    best = [entry for entry in measured if entry.scale.startswith("full")] or measured
    if not best:
        return ""
    scale = "" if best[0].scale.startswith("full") else ", reduced scale"
    if len(best) == 1:
        return f"{value(best[0])}{scale}"
    low, high = min(entry.value for entry in best), max(entry.value for entry in best)
    return f"{low:.2f} to {high:.2f} in {len(best)} rows{scale}"


def value(entry: Entry) -> str:
    """`97.85 ± 0.10`: with half the width of the 95 % interval, or the value alone."""
    return f"{entry.value:.2f}" + (f" ± {entry.interval:.2f}" if entry.interval is not None else "")


def _entry(entry: Entry, folder: Path) -> dict[str, Any]:
    links = [(os.path.basename(link), _href(link, folder)) for link in entry.links]
    return {"entry": entry, "value": value(entry), "links": links}


def _href(file: str, folder: Path) -> str:
    """The address of a file as seen from a folder."""
    place, name = os.path.split(file)
    return quote(f"{_relative(os.path.join(os.getcwd(), place), folder)}/{name}".removeprefix("./"))


@cache
def _relative(place: str, folder: Path) -> str:
    return Path(relpath(Path(place).resolve(), folder)).as_posix()


def _sample(kind: str) -> Markup:
    """The marker of a kind of point, in the colours of the page."""
    colour, marker, filled = LOOKS[kind]
    return Markup(marker_sample(marker, page_colours()[colour.lower()], filled=filled))


def _choices(cells: Sequence[NominalCell], name: str) -> list[str]:
    return sorted({getattr(cell.nominal, name) for cell in cells})


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: csv_value(entry) for name, entry in one.items()} for one in rows])
    return text.getvalue()


def _parquet(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"runs": "Int64"})
    with written(path, "--write", follow=False) as part:
        frame.to_parquet(part, engine="pyarrow", index=False)
    return path
