"""A figure as data: which curve or final number, over what, in which panels and lines."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Protocol

from lit_fa.errors import UserError
from lit_fa.spec.validation import build, choice, component, keys, line, mapping, number, sequence, text

AXES = ("row", "column")
_X = {"curves": ("step", "epoch"), "final": AXES, "bars": AXES, "against": ()}
_SCALES = ("linear", "log", "symlog")


class Labelled(Protocol):
    """What a figure needs to know of a cell: its two labels."""

    row: str
    column: str


@dataclass(frozen=True)
class Figure:
    """One image file.

    `kind: curves` draws the key `y` of the records' curves over `x` (step or epoch); `kind: final` draws the final
    metric `y` over the number in the labels of `x` (column or row), so that "width 128" stands at 128; `kind: bars`
    draws it as a group of bars for each label of `x`; `kind: against` over another final metric, `x`. `panels` and
    `lines` name an axis of the table, or list the labels to take, in this order; `where` keeps some labels only.
    `band: std` shades one standard deviation over the seeds.
    """

    file: str
    y: str
    kind: str = "curves"
    title: str = ""
    x: str = ""
    panels: str | list[str] = ""
    lines: str | list[str] = "row"
    where: dict[str, list[str]] = field(default_factory=dict)
    hline: dict[str, Any] = field(default_factory=dict)
    ylabel: str = ""
    xlabel: str = ""
    yscale: str = "linear"
    xscale: str = "linear"
    band: str = "std"


def read_figure(data: Any, cells: Sequence[Labelled], where: str) -> Figure:
    """A figure whose labels are all labels of `cells`.

    Raises:
        UserError: an unknown key, axis, scale or label, or an `x` without a number in it.
    """
    figure = build(Figure, data, where)
    component(PurePath(line(figure.file, f"{where}.file")).stem, f"{where}.file")
    if PurePath(figure.file).suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"{where}.file: {figure.file!r} is no image; end it in .png, .pdf or .svg")
    valid = _X[choice(figure.kind, f"{where}.kind", tuple(_X))]
    if figure.kind == "against":
        text(figure.x or None, f"{where}.x")  # any key
    else:
        default = valid[0 if figure.kind == "curves" else -1]
        figure = replace(figure, x=choice(figure.x or default, f"{where}.x", valid))
    choice(figure.yscale, f"{where}.yscale", _SCALES)
    choice(figure.xscale, f"{where}.xscale", _SCALES)
    choice(figure.band, f"{where}.band", ("std", "none"))
    if keys(figure.hline, f"{where}.hline", ["value", "label"]):
        number(figure.hline.get("value"), f"{where}.hline.value")
        text(figure.hline.get("label", ""), f"{where}.hline.label")
    for axis, labels in mapping(figure.where, f"{where}.where").items():
        known = labels_of(cells, choice(axis, f"{where}.where", AXES))
        for label in sequence(labels, f"{where}.where.{axis}"):
            choice(label, f"{where}.where.{axis}", known)
    lines, _ = split(figure.lines, cells, f"{where}.lines")
    if figure.panels and split(figure.panels, cells, f"{where}.panels")[0] == lines:
        raise UserError(f"{where}: panels and lines are both the {lines}s; give one of them the other axis")
    if figure.kind in ("final", "bars"):
        _check_final(figure, lines, cells, where)
    elif not figure.panels and figure.kind == "curves":
        _check_one_panel(figure, lines, cells, where)
    return figure


def split(by: str | list[str], cells: Sequence[Labelled], where: str) -> tuple[str, list[str]]:
    """The axis that `by` divides the cells along and its labels in order; `by` is an axis or a list of labels."""
    if isinstance(by, str):
        return choice(by, where, AXES), labels_of(cells, by)
    axis = next((a for a in AXES if set(sequence(by, where)) <= set(labels_of(cells, a))), None)
    if axis is None:
        raise UserError(f"{where}: {by} are not all rows or all columns; write row, column or labels of one of them")
    return axis, by


def labels_of(cells: Sequence[Labelled], axis: str) -> list[str]:
    """The different labels along an axis, in the order of the table."""
    return list(dict.fromkeys(getattr(cell, axis) for cell in cells))


def number_in(label: str) -> float | None:
    """The first number in a label: 128.0 for "width 128"; a dash is a minus only where a word does not end."""
    found = re.search(r"(?:(?<![\w-])-)?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", label)
    number = float(found.group()) if found else math.inf
    return number if math.isfinite(number) else None


def _check_final(figure: Figure, lines: str, cells: Sequence[Labelled], where: str) -> None:
    if lines == figure.x:
        raise UserError(f"{where}: x and lines are both the {lines}s; give one of them the other axis")
    if figure.panels:
        raise UserError(f"{where}.panels: a figure of final numbers has one panel; delete the key")
    for label in labels_of(cells, figure.x) if figure.kind == "final" else ():
        if number_in(label) is None and label in figure.where.get(figure.x, [label]):
            raise UserError(
                f"{where}.x: the {figure.x} {label!r} has no number in it; name it so or leave it out in where"
            )


def _check_one_panel(figure: Figure, lines: str, cells: Sequence[Labelled], where: str) -> None:
    """One panel must not average over cells that differ in more than their line."""
    other = next(axis for axis in AXES if axis != lines)
    kept = [label for label in labels_of(cells, other) if label in figure.where.get(other, [label])]
    if len(kept) > 1:
        raise UserError(f"{where}: one line would mix the {other}s {', '.join(kept)}; add panels: {other} or a where")
