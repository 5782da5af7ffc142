"""Figures from records: curves averaged over seeds, or final numbers over a number in the labels, in the one style."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from lit_fa import heat_maps, plot_style
from lit_fa.outputs import written
from lit_fa.reports.panels import Line, draw_panel, math_label, places_of
from lit_fa.results.records import Collected, Record
from lit_fa.results.summary import summarise
from lit_fa.spec.figure import Figure, labels_of, number_in, split, with_labels_of
from lit_fa.spec.table import Cell, Metric, Table

ALIGNED = ("align/gradient/inexact", "align/gradient/", "align/delta/", "align/weight/")  # what `by_row` looks for


def draw(collected: Collected, figure: Figure, out: Path) -> Path | None:
    """Writes one figure into a folder and returns its path; None if no record has its data."""
    return draw_to(collected, figure, figure_path(collected, figure, out))


def by_row(table: Table, file: str) -> Figure:
    """The figure of a table's metric by row, a dot with its 95 % interval for each, beside an angle that it reports."""
    aligned = [metric for begin in ALIGNED for metric in table.also if metric.name.startswith(begin)]
    title = f"{table.paper.key}, {table.name}: {' and '.join(_words(m) for m in (table.metric, *aligned[:1]))}"
    x, xlabel = (aligned[0].name, _label(aligned[0])) if aligned else ("", "")
    figure = Figure(
        file=file, kind="dots", y=table.metric.name, ylabel=_label(table.metric), x=x, xlabel=xlabel, title=title
    )
    return with_labels_of(figure, table.cells, "--figure")


def _words(metric: Metric) -> str:
    """What is measured, in words where the key is a usual one."""
    usual = {"align/gradient/inexact": "angle of the update with backprop's", "test/accuracy": "test accuracy"}
    return usual.get(metric.name, metric.name)


def _label(metric: Metric) -> str:
    return ", ".join(filter(None, (_words(metric), metric.unit)))


def draw_to(collected: Collected, figure: Figure, path: Path) -> Path | None:
    """Writes one figure to a file and returns its path; None if no record has its data."""
    panels = split_panels(collected, figure)
    if not panels:
        return None
    with plot_style.style():
        alike = figure.kind != "depth" or len({tuple(layers) for layers in panels.values()}) == 1
        canvas, axes = plot_style.canvas(len(panels), _size(collected, figure), sharey=alike)
        for ax, (title, lines) in zip(axes, panels.items(), strict=True):
            draw_panel(ax, collected, figure, title, lines)
        for ax in axes[:: plot_style.COLUMNS] if figure.kind not in ("dots", "depth") else ():
            ax.set_ylabel(math_label(figure.ylabel or figure.y))
        if figure.kind == "depth":
            heat_maps.same_colours(axes)
        plot_style.legend(canvas, note(collected, figure))
        canvas.suptitle(math_label(figure.title), fontsize="medium", wrap=True)
        with written(path) as part:
            plot_style.save(canvas, part, path.suffix)
    return path


def note(collected: Collected, figure: Figure) -> str:
    """What a figure says of its numbers: `cpu scale; mean of 3 runs, band: one standard deviation`."""
    runs = sorted({n for cell in _cells(collected, figure) if (n := len(collected.of(cell)))})
    of = " to ".join(map(str, dict.fromkeys((runs[0], runs[-1])))) if runs else "0"
    text = f"{collected.scale.label} scale; " + ("one run" if of == "1" else f"mean of {of} runs")
    if figure.kind == "dots":
        columns = labels_of(_cells(collected, figure), "column")
        alone = f"{columns[0]}; " if len(columns) == 1 and columns[0] else ""
        return alone + text + ", with its 95 % interval" * (of != "1")
    if figure.kind == "depth":
        return f"{text}; input on top"
    spread = "band" if figure.kind == "curves" else "whiskers"
    return text + f", {spread}: one standard deviation" * (figure.band == "std" and of != "1")


def figure_path(collected: Collected, figure: Figure, out: Path) -> Path:
    """`<out>/<figure>-<scale>.png`."""
    name = Path(figure.file)
    return out / f"{name.stem}-{collected.scale.label}{name.suffix}"


def drawable(collected: Collected, figure: Figure) -> bool:
    """Whether any record has the data of the figure."""
    return bool(panels_of(collected, figure))


def panels_of(collected: Collected, figure: Figure) -> dict[str, dict[str, Line]]:
    """The data of a figure: panel -> line -> points, without empty panels and lines."""
    cells = _cells(collected, figure)
    if figure.kind == "dots":
        return _dots(collected, figure, cells)
    if figure.kind == "depth":
        return _layers(collected, figure, cells)
    by_panel = _grouped(cells, figure.panels, collected.table.cells) if figure.panels else {"": cells}
    panels = {}
    for title, group in by_panel.items():
        by_line = _grouped(group, figure.lines, collected.table.cells)
        lines = {label: _line(collected, figure, members) for label, members in by_line.items()}
        panels[title] = {label: line for label, line in lines.items() if line}
    return {title: lines for title, lines in panels.items() if lines}


def split_panels(collected: Collected, figure: Figure) -> dict[str, dict[str, Line]]:
    """The panels of a figure with at most seven lines each; one with more becomes several. A heat map has no lines."""
    if figure.kind == "depth":
        return panels_of(collected, figure)
    return plot_style.chunked(panels_of(collected, figure), places_of(collected, figure))


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


def _cells(collected: Collected, figure: Figure) -> list[Cell]:
    """The cells that the figure's `where` keeps."""
    where = figure.where.items()
    return [cell for cell in collected.cells if all(getattr(cell, axis) in labels for axis, labels in where)]


def _size(collected: Collected, figure: Figure) -> tuple[float, float]:
    """Inches of a panel; bars need width, and dots the height of their rows."""
    width, height = plot_style.PANEL
    rows = len({cell.row for cell in _cells(collected, figure)})
    return {"dots": (width, 0.9 + 0.24 * rows), "bars": (1.6 * width, height)}.get(figure.kind, (width, height))


def _dots(collected: Collected, figure: Figure, cells: Sequence[Cell]) -> dict[str, dict[str, Line]]:
    """A panel for the metric `y` and one for `x`; of each row and column the mean and half its 95 % interval."""
    rows, panels = labels_of(cells, "row"), {}
    for key, title in (pair for pair in ((figure.y, figure.ylabel), (figure.x, figure.xlabel)) if pair[0]):
        metric = _metric(collected.table, key)
        grouped = _grouped(cells, figure.lines, collected.table.cells)
        lines = {label: _dots_of(collected, members, metric, rows) for label, members in grouped.items()}
        panels[title or key] = {label: line for label, line in lines.items() if line}
    return {title: lines for title, lines in panels.items() if lines}


def _layers(collected: Collected, figure: Figure, cells: Sequence[Cell]) -> dict[str, dict[str, Line]]:
    """A panel for each label, with the mean curve of every layer; the curves of all layers together are left out."""
    panels = {}
    for title, members in _grouped(cells, figure.panels, collected.table.cells).items():
        records = [record for cell in members for record in collected.of(cell)]
        keys = {key for record in records for key in record.data["curves"] if key.startswith(figure.y)}
        layers = heat_maps.depth_order({key.removeprefix(figure.y) for key in keys} - {"inexact", "overall"})
        panels[title] = {layer: mean_curve(records, f"{figure.y}{layer}", figure.x) for layer in layers}
    return {title: layers for title, layers in panels.items() if layers}


def _dots_of(collected: Collected, cells: Sequence[Cell], metric: Metric, rows: Sequence[str]) -> Line:
    """(place of the row, mean, half the 95 % interval) of each cell with a finite mean."""
    line = []
    for cell in cells:
        values = [record.value(metric) for record in collected.of(cell)]
        summary = summarise([value for value in values if value is not None], metric)
        if summary.mean is not None and math.isfinite(summary.mean):
            line.append((float(rows.index(cell.row)), summary.mean, summary.interval or 0.0))
    return line


def _metric(table: Table, key: str) -> Metric:
    """The table's metric of this name, with the point of the run at which it counts; else the final value."""
    return next((metric for metric in (table.metric, *table.also) if metric.name == key), Metric(key, ""))


def _grouped(cells: Sequence[Cell], by: str | list[str], known: Sequence[Cell]) -> dict[str, list[Cell]]:
    axis, labels = split(by, known, "figure")
    return {label: [cell for cell in cells if getattr(cell, axis) == label] for label in labels}


def _mean_sd(values: Sequence[float]) -> tuple[float, float]:
    if not all(map(math.isfinite, values)):
        return math.nan, 0.0  # a gap in the line
    return fmean(values), stdev(values) if len(values) > 1 else 0.0
