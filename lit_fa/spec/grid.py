"""Rows times columns: the short way to write a table whose cells differ along two axes."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from lit_fa.errors import UserError
from lit_fa.spec.validation import choice, keys, mapping, sequence, text

_PRINTED = ("published", "published_difference")  # by the paper, for a cell


def cross(data: Any, where: str, scales: Sequence[str]) -> list[dict]:
    """The cells of a grid, as they would be written one by one; the column's overrides come after the row's.

    Args:
        data: `{rows: {label: side}, columns: {label: side}, published: {"row|column": ...}}`, where a side has any of
            `set` (dotted overrides), `note`, `scales` and `paired_with` (a row), and `published_difference` is written
            as `published` is; a cell is run at the scales that both of its sides allow.
        where: what to call the grid in an error.
        scales: the scales that the table declares.

    Raises:
        UserError: an unknown key, label or scale.
    """
    keys(data, where, ["rows", "columns", *_PRINTED], ["rows", "columns"])
    for axis in ("rows", "columns"):
        if not mapping(data[axis], f"{where}.{axis}"):
            raise UserError(f"{where}.{axis}: nothing in it; write label: {{set: {{...}}}}")
        for label, side in data[axis].items():
            _check_side(side, f"{where}.{axis}.{label}", scales)
    printed = {key: mapping(data.get(key, {}), f"{where}.{key}") for key in _PRINTED}
    cells = [_cell(row, column, printed) for row, column in product(data["rows"].items(), data["columns"].items())]
    for key, entries in printed.items():
        keys(entries, f"{where}.{key}", [f"{cell['row']}|{cell['column']}" for cell in cells])
    return [cell for cell in cells if cell.get("scales") != []]


def _check_side(side: Any, where: str, scales: Sequence[str]) -> None:
    keys(side, where, ["set", "note", "scales", "paired_with"])
    mapping(side.get("set", {}), f"{where}.set")
    text(side.get("note", ""), f"{where}.note")
    for scale in sequence(side.get("scales", list(scales)), f"{where}.scales"):
        choice(scale, f"{where}.scales", scales)


def _cell(row: tuple[str, dict], column: tuple[str, dict], printed: dict[str, dict]) -> dict:
    (row_label, left), (column_label, right) = row, column
    cell = {"row": row_label, "column": column_label, "set": {**left.get("set", {}), **right.get("set", {})}}
    cell["note"] = [side["note"] for side in (left, right) if side.get("note")]
    cell["paired_with"] = left.get("paired_with", right.get("paired_with", ""))
    cell |= {key: entries.get(f"{row_label}|{column_label}") for key, entries in printed.items()}
    limits = [set(side["scales"]) for side in (left, right) if "scales" in side]
    return {**cell, "scales": sorted(set.intersection(*limits))} if limits else cell
