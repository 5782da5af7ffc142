"""Rows times columns: the short way to write a table whose cells differ along two axes."""

from collections.abc import Sequence
from dataclasses import field
from itertools import product
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from lit_fa.spec.accept import Accept
from lit_fa.spec.cell import CellEntry, ColumnText, Printed, Published, RowText
from lit_fa.spec.validation import Entry, Filled, Line, choice


@dataclass(frozen=True)
class Side(Entry):
    """What all cells of one row or column share; `paired_with` is a row."""

    set: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    scales: Annotated[list[str], Filled] | None = None
    paired_with: str = ""


@dataclass(frozen=True)
class Grid(Entry):
    """The mapping `grid` of a table file; the other keys are by `row|column`."""

    rows: Annotated[dict[RowText, Side], Filled]
    columns: Annotated[dict[ColumnText, Side], Filled]
    published: dict[str, Printed | None] = field(default_factory=dict)
    published_difference: dict[str, Published | None] = field(default_factory=dict)
    accept: dict[str, Accept] = field(default_factory=dict)
    reading_of: dict[str, Line] = field(default_factory=dict)


def cross(grid: Grid, scales: Sequence[str], where: str) -> list[CellEntry]:
    """The cells of a grid, as they would be written one by one; the column's overrides come after the row's.

    A cell is run at the scales that both of its sides allow; one without such a scale is left out.

    Args:
        grid: as in the file.
        scales: the scales that the table declares.
        where: what to call the grid in an error.

    Raises:
        UserError: an unknown scale or label.
    """
    for axis in ("rows", "columns"):
        for label, side in getattr(grid, axis).items():
            for scale in side.scales or ():
                choice(scale, scales, f"{where}.{axis}.{label}.scales")
    labels = [f"{row}|{column}" for row, column in product(grid.rows, grid.columns)]
    for key in ("published", "published_difference", "accept", "reading_of"):
        for label in getattr(grid, key):
            choice(label, labels, f"{where}.{key}")
    cells = (_cell(grid, row, column) for row, column in product(grid.rows, grid.columns))
    return [cell for cell in cells if cell]


def _cell(grid: Grid, row: str, column: str) -> CellEntry | None:
    sides = grid.rows[row], grid.columns[column]
    limits = [set(side.scales) for side in sides if side.scales]
    scales = tuple(sorted(set.intersection(*limits))) if limits else None
    if scales == ():
        return None
    return CellEntry(
        row=row,
        column=column,
        set=sides[0].set | sides[1].set,
        note=tuple(side.note for side in sides if side.note),
        paired_with=sides[0].paired_with or sides[1].paired_with,
        published=grid.published.get(f"{row}|{column}"),
        published_difference=grid.published_difference.get(f"{row}|{column}"),
        accept=grid.accept.get(f"{row}|{column}"),
        reading_of=grid.reading_of.get(f"{row}|{column}", ""),
        scales=scales,
    )
