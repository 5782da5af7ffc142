"""Figures from records: curves averaged over seeds, or final numbers over a number in the labels."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from lit_fa.outputs import written
from lit_fa.results.records import Collected, Record
from lit_fa.spec.figure import Figure, labels_of, number_in, split
from lit_fa.spec.table import Cell, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# x, mean over seeds, standard deviation over seeds (0 for one seed)
Line = list[tuple[float, float, float]]
_PANEL = (4.2, 3.2)  # inches


def math_label(text: str) -> str:
    r"""A label for matplotlib: text between dollars is mathematics if it can be parsed, else literal text.

    >>> math_label("$x_1$"), math_label(r"$\frac$")
    ('$x_1$', '\\$\\frac\\$')
    """
    from matplotlib.mathtext import MathTextParser

    if "$" not in text:
        return text
    try:
        MathTextParser("path").parse(text)
    except (ValueError, RecursionError):
        return text.replace("$", r"\$")
    return text


def draw(collected: Collected, figure: Figure, out: Path) -> Path | None:
    """Writes one figure and returns its path; None if no record has its data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    panels = panels_of(collected, figure)
    if not panels:
        return None
    canvas = Canvas(figsize=(_PANEL[0] * len(panels), _PANEL[1]), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        draw_panel(ax, collected, figure, title, lines)
    axes[0].set_ylabel(math_label(figure.ylabel or figure.y))
    max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[0])).legend(fontsize="small")
    if figure.title:
        canvas.suptitle(math_label(figure.title), fontsize="medium")
    path = figure_path(collected, figure, out)
    # No version and no date inside: the same records give the same bytes.
    stamp = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with written(path) as part:
        canvas.savefig(part, dpi=120, format=path.suffix[1:], metadata=stamp[path.suffix])
    return path


def figure_path(collected: Collected, figure: Figure, out: Path) -> Path:
    """`<out>/<figure>-<scale>.png`."""
    name = Path(figure.file)
    return out / f"{name.stem}-{collected.scale.label}{name.suffix}"


def drawable(collected: Collected, figure: Figure) -> bool:
    """Whether any record has the data of the figure."""
    return bool(panels_of(collected, figure))


def panels_of(collected: Collected, figure: Figure) -> dict[str, dict[str, Line]]:
    """The data of a figure: panel -> line -> points, without empty panels and lines."""
    cells = [
        cell for cell in collected.cells if all(getattr(cell, axis) in labels for axis, labels in figure.where.items())
    ]
    by_panel = _grouped(cells, figure.panels, collected.table.cells) if figure.panels else {"": cells}
    panels = {}
    for title, group in by_panel.items():
        by_line = _grouped(group, figure.lines, collected.table.cells)
        lines = {label: _line(collected, figure, members) for label, members in by_line.items()}
        panels[title] = {label: line for label, line in lines.items() if line}
    return {title: lines for title, lines in panels.items() if lines}


def mean_curve(records: Sequence[Record], name: str, x: str) -> Line:
    """Mean and deviation over seeds at each step (or the last value of each epoch) that any of them logged."""
    at: dict[float, list[float]] = {}
    for record in records:
        last = {(epoch if x == "epoch" else step): value for step, epoch, value in record.curve(name)}
        for position, value in last.items():
            at.setdefault(position, []).append(value)
    return [(position, *_mean_sd(values)) for position, values in sorted(at.items())]


def _line(collected: Collected, figure: Figure, cells: Sequence[Cell]) -> Line:
    if figure.kind == "curves":
        return mean_curve([record for cell in cells for record in collected.of(cell)], figure.y, figure.x)
    return sorted(point for cell in cells if (point := _point(collected, figure, cell)) is not None)


def _point(collected: Collected, figure: Figure, cell: Cell) -> tuple[float, float, float] | None:
    """The point of a cell: x from its label or another metric, mean and deviation over seeds."""
    values, positions = (_finals(collected, cell, key) for key in (figure.y, figure.x))
    if not values or (figure.kind == "against" and not positions):
        return None
    if figure.kind == "against":
        return (fmean(positions), *_mean_sd(values))
    label = getattr(cell, figure.x)
    at = labels_of(collected.cells, figure.x).index(label) if figure.kind == "bars" else number_in(label)
    return None if at is None else (at, *_mean_sd(values))


def _finals(collected: Collected, cell: Cell, key: str) -> list[float]:
    values = (record.value(Metric(key, "")) for record in collected.of(cell))
    return [value for value in values if value is not None]


def colours_of(collected: Collected, figure: Figure) -> dict[str, str]:
    """The colour of each line, C0 to C9 in turn; a line has the same colour in all panels."""
    labels = split(figure.lines, collected.table.cells, "figure")[1]
    return {label: f"C{i % 10}" for i, label in enumerate(labels)}


def draw_panel(ax: "Axes", collected: Collected, figure: Figure, title: str, lines: dict[str, Line]) -> None:
    """Draws the lines of one panel, axes and grid; no legend."""
    colours = colours_of(collected, figure)
    ax.set(
        title=math_label(title),
        xlabel=math_label(figure.xlabel or ("" if figure.kind == "bars" else figure.x)),
        yscale=figure.yscale,
        xscale=figure.xscale,
    )
    for i, (label, line) in enumerate(lines.items()):
        x, mean, sd = (list(values) for values in zip(*line, strict=True))
        style: dict[str, Any] = {"label": math_label(label), "color": colours[label]}
        if figure.kind == "bars":
            width = 0.8 / len(lines)
            x = [group + (i + 0.5) * width - 0.4 for group in x]
            ax.bar(x, mean, width, yerr=sd if figure.band == "std" and any(sd) else None, **style)
        elif figure.kind == "curves":
            _draw_curve(ax, figure, x, mean, sd, style)
        else:
            ax.errorbar(x, mean, yerr=sd if figure.band == "std" else None, marker="o", capsize=3, **style)
    if figure.kind == "final":
        ticks = sorted({x for line in lines.values() for x, *_ in line})
        ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
        ax.minorticks_off()
    if figure.kind == "bars":
        groups = labels_of(collected.cells, figure.x)
        ax.set_xticks(range(len(groups)), list(map(math_label, groups)), rotation=30, ha="right", fontsize="small")
    if figure.hline:
        named = math_label(figure.hline.get("label", "")) or None
        ax.axhline(figure.hline["value"], color="black", linestyle="--", linewidth=1, label=named)
    ax.grid(alpha=0.3)


def _draw_curve(
    ax: "Axes", figure: Figure, x: list[float], mean: list[float], sd: list[float], style: dict[str, Any]
) -> None:
    ax.plot(x, mean, linewidth=1.4, **style)
    if figure.band == "std" and any(sd):
        low, high = zip(*((m - s, m + s) for m, s in zip(mean, sd, strict=True)), strict=True)
        ax.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _grouped(cells: Sequence[Cell], by: str | list[str], known: Sequence[Cell]) -> dict[str, list[Cell]]:
    axis, labels = split(by, known, "figure")
    return {label: [cell for cell in cells if getattr(cell, axis) == label] for label in labels}


def _mean_sd(values: Sequence[float]) -> tuple[float, float]:
    if not all(map(math.isfinite, values)):
        return math.nan, 0.0  # a gap in the line
    return fmean(values), stdev(values) if len(values) > 1 else 0.0
