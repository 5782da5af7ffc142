"""A figure as data: which curve or final number, over what, in which panels and lines."""

import math
import re
from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import PurePath
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from lit_fa.errors import UserError
from lit_fa.spec.validation import Entry, Filled, Line, Number, OneOf, choice, file_name, validated

Axis = Annotated[Literal["row", "column"], OneOf()]
AXES: tuple[Axis, ...] = ("row", "column")
_X: dict[str, tuple[str, ...]] = {
    "curves": ("step", "epoch"),
    "final": AXES,
    "bars": AXES,
    "against": (),
    "dots": (),
    "depth": ("step", "epoch"),
}
Labels = Annotated[list[str], Filled]
AxisScale = Annotated[Literal["linear", "log", "symlog"], OneOf()]


class Labelled(Protocol):
    """What a figure needs to know of a cell: its two labels."""

    @property
    def row(self) -> str:
        """The label of its row."""

    @property
    def column(self) -> str:
        """The label of its column."""


def _image(file: str) -> str:
    file_name(PurePath(file).stem)
    if PurePath(file).suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"{file!r} is no image; end it in .png, .pdf or .svg")
    return file


@dataclass(frozen=True)
class HorizontalLine(Entry):
    """A dashed line across every panel."""

    value: Number
    label: str = ""


@dataclass(frozen=True)
class Figure(Entry):
    """One image file.

    `kind: curves` draws the key `y` of the records' curves over `x` (step or epoch); `kind: final` draws the final
    metric `y` over the number in the labels of `x` (column or row), so that "width 128" stands at 128; `kind: bars`
    draws it as a group of bars for each label of `x`; `kind: against` over another final metric, `x`; `kind: dots`
    draws a dot with its 95 % interval for each row, in a panel for `y` and in one for the final metric `x`, if given;
    `kind: depth` draws the curves that begin with `y`, such as `align/delta/`, as a heat map of layers over `x`.
    `panels` and `lines` name an axis of the table, or list the labels to take, in this order; `where` keeps some labels
    only. `band: std` shades one standard deviation over the seeds. `slope` adds a straight line of this slope to two
    logarithmic axes. More than seven lines in a panel are split over several.
    """

    file: Annotated[Line, AfterValidator(_image)]
    y: str
    kind: Annotated[Literal["curves", "final", "bars", "against", "dots", "depth"], OneOf()] = "curves"
    title: str = ""
    x: str = ""
    panels: Labels | str = ""
    lines: Labels | str = "row"
    where: dict[Axis, Labels] = field(default_factory=dict)
    hline: dict[str, Any] = field(default_factory=dict)
    ylabel: str = ""
    xlabel: str = ""
    yscale: AxisScale = "linear"
    xscale: AxisScale = "linear"
    slope: Number | None = None
    band: Annotated[Literal["std", "none"], OneOf()] = "std"


def with_labels_of(figure: Figure, cells: Sequence[Labelled], where: str) -> Figure:
    """The figure with its default `x`, if all its labels are labels of `cells`.

    Raises:
        UserError: an unknown axis or label, or an `x` without a number in it.
    """
    if figure.kind == "dots":
        figure = _checked_dots(figure, cells, where)
    elif figure.kind != "against":
        valid = _X[figure.kind]
        default = valid[0 if figure.kind == "curves" else -1]
        figure = replace(figure, x=choice(figure.x or default, valid, f"{where}.x"))
    elif not figure.x:
        raise UserError(f"{where}: the key 'x' is missing; add it")
    if figure.slope is not None and (figure.kind, figure.xscale, figure.yscale) != ("final", "log", "log"):
        raise UserError(f"{where}.slope: needs kind: final, xscale: log and yscale: log; add them or delete the key")
    if figure.hline:
        validated(HorizontalLine, figure.hline, f"{where}.hline")
    for axis, labels in figure.where.items():
        for label in labels:
            choice(label, labels_of(cells, axis), f"{where}.where.{axis}")
    lines, _ = split(figure.lines, cells, f"{where}.lines")
    if figure.panels and figure.kind != "depth" and split(figure.panels, cells, f"{where}.panels")[0] == lines:
        raise UserError(f"{where}: panels and lines are both the {lines}s; give one of them the other axis")
    if figure.kind in ("final", "bars"):
        _check_final(figure, lines, cells, where)
    elif figure.kind == "depth":
        figure = replace(figure, panels=figure.panels or lines)
        _check_one_panel(figure, split(figure.panels, cells, f"{where}.panels")[0], cells, where)
    elif not figure.panels and figure.kind == "curves":
        _check_one_panel(figure, lines, cells, where)
    return figure


def split(by: str | list[str], cells: Sequence[Labelled], where: str) -> tuple[Axis, list[str]]:
    """The axis that `by` divides the cells along and its labels in order; `by` is an axis or a list of labels."""
    if isinstance(by, str):
        axis = choice(by, AXES, where)
        return axis, labels_of(cells, axis)
    shared = next((axis for axis in AXES if set(by) <= set(labels_of(cells, axis))), None)
    if shared is None:
        raise UserError(f"{where}: {by} are not all rows or all columns; write row, column or labels of one of them")
    return shared, by


def labels_of(cells: Sequence[Labelled], axis: str) -> list[str]:
    """The different labels along an axis, in the order of the table."""
    return list(dict.fromkeys(getattr(cell, axis) for cell in cells))


def number_in(label: str) -> float | None:
    """The first number in a label: 128.0 for "width 128"; a dash is a minus only where a word does not end."""
    match = re.search(r"(?:(?<![\w-])-)?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", label)
    number = float(match.group()) if match else math.inf
    return number if math.isfinite(number) else None


def _checked_dots(figure: Figure, cells: Sequence[Labelled], where: str) -> Figure:
    """A figure of dots: its rows are the table's, so its lines are columns, and a panel is a metric."""
    lines = "column" if figure.lines == "row" else figure.lines
    if figure.panels or figure.hline or split(lines, cells, f"{where}.lines")[0] == "row":
        raise UserError(f"{where}: a figure of dots has rows, a panel for y and x, no hline, and columns for lines")
    return replace(figure, lines=lines)


def _check_final(figure: Figure, lines: Axis, cells: Sequence[Labelled], where: str) -> None:
    x = choice(figure.x, AXES, f"{where}.x")
    if lines == x:
        raise UserError(f"{where}: x and lines are both the {lines}s; give one of them the other axis")
    if figure.panels:
        raise UserError(f"{where}.panels: a figure of final numbers has one panel; delete the key")
    for label in labels_of(cells, x) if figure.kind == "final" else ():
        if number_in(label) is None and label in figure.where.get(x, [label]):
            raise UserError(f"{where}.x: the {x} {label!r} has no number in it; name it so or leave it out in where")


def _check_one_panel(figure: Figure, lines: Axis, cells: Sequence[Labelled], where: str) -> None:
    """One panel must not average over cells that differ in more than their line; under `depth`, in their panel."""
    other = next(axis for axis in AXES if axis != lines)
    labels = [label for label in labels_of(cells, other) if label in figure.where.get(other, [label])]
    if len(labels) > 1:
        raise UserError(f"{where}: one line would mix the {other}s {', '.join(labels)}; add panels: {other} or a where")
