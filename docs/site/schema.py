"""The keys of a table file, from the schema that checks them."""

import dataclasses
import re
from typing import Any

from lit_fa.spec.accept import Accept, Control
from lit_fa.spec.cell import CellEntry, Metric, Published
from lit_fa.spec.cost import Cost
from lit_fa.spec.figure import Figure, HorizontalLine
from lit_fa.spec.grid import Grid, Side
from lit_fa.spec.protocol import Stopping
from lit_fa.spec.table import Paper, ScaleEntry, TableFile

# where the entry stands in a file, and what checks it
ENTRIES = {
    "a table file": TableFile,
    "paper": Paper,
    "metric, and each entry of also": Metric,
    "each entry of cells": CellEntry,
    "grid": Grid,
    "each entry of grid.rows and grid.columns": Side,
    "published": Published,
    "each entry of scales": ScaleEntry,
    "cost of a scale": Cost,
    "accept": Accept,
    "control": Control,
    "protocol": Stopping,
    "each entry of figures": Figure,
    "each entry of a figure's lines": HorizontalLine,
}
INTRODUCTION = """# Table files, key by key

Generated from the schema that reads them (`lit_fa/spec`). [Adding a paper](../adding_a_paper.md) says what the keys
mean. An unknown key is refused with the nearest known one.
"""


def schema_page() -> dict[str, str]:
    """File of the site to its text."""
    sections = "\n".join(section(title, kind) for title, kind in ENTRIES.items())
    return {"reference/table_files.md": f"{INTRODUCTION}\n{sections}"}


def section(title: str, kind: type) -> str:
    """One entry: its keys, their types, and which must be given."""
    rows = "\n".join(f"| `{f.name}` | {type_of(f)} | {default_of(f)} |" for f in dataclasses.fields(kind))
    return f"## {title[0].upper()}{title[1:]}\n\n{kind.__doc__}\n\n| key | type | without it |\n|---|---|---|\n{rows}\n"


def type_of(field: dataclasses.Field[Any]) -> str:
    """The type, without the checks that are attached to it."""
    text = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", None) or str(field.type)
    text = str(field.type) if "Annotated" in str(field.type) or "[" in str(field.type) else text
    text = re.sub(r"Annotated\[(.*?), .*\]$", r"\1", text)
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)
    return f"`{text}`".replace("|", "\\|")


def default_of(field: dataclasses.Field[Any]) -> str:
    """What holds if the key is not given."""
    value = field.default
    if value is dataclasses.MISSING:
        if field.default_factory is dataclasses.MISSING:
            return "required"
        value = field.default_factory()
    return "nothing" if value in (None, "", (), [], {}) else f"`{value}`"
