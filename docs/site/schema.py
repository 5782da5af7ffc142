"""The keys of a table file, from the schema that checks them."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

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
WORDS = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Any: "any value"}
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
    kinds = get_type_hints(kind, include_extras=True)
    rows = "\n".join(f"| `{f.name}` | {type_of(kinds[f.name])} | {default_of(f)} |" for f in dataclasses.fields(kind))
    head = f"## {title[0].upper()}{title[1:]}\n\n{inspect.getdoc(kind)}\n\n| key | type | without it |\n|---|---|---|"
    return f"{head}\n{rows}\n"


def type_of(kind: Any) -> str:
    """A type in words, without the checks that are attached to it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_of(parts[0])
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in parts)
    if origin in (Union, UnionType):
        return " or ".join(type_of(part) for part in parts if part is not NoneType)
    if origin in (list, tuple, Sequence):
        return f"list of {type_of(parts[0])}"
    if origin in (dict, Mapping):
        return f"mapping from {type_of(parts[0])} to {type_of(parts[1])}"
    if kind in ENTRIES.values():
        title = next(title for title, entry in ENTRIES.items() if entry is kind)
        return f"mapping, see [{title}](#{title.replace(' ', '-').replace(',', '').replace('.', '')})"
    return WORDS.get(kind, str(getattr(kind, "__name__", kind)))


def default_of(field: dataclasses.Field[Any]) -> str:
    """What holds if the key is not given."""
    value = field.default
    if value is dataclasses.MISSING:
        if field.default_factory is dataclasses.MISSING:
            return "required"
        value = field.default_factory()
    if value in (None, "", (), [], {}):
        return "nothing"
    return f"`{value}`" if isinstance(value, str | int | float | bool) else "its defaults"
