"""One panel of a declared figure: its lines, bars or dots, its axes and ticks."""

import math
from typing import TYPE_CHECKING, Any

from lit_fa import heat_maps, plot_style
from lit_fa.results.records import Collected
from lit_fa.spec.figure import Figure, labels_of, split

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# x, mean over seeds, standard deviation over seeds (0 for one seed); of dots half the 95 % interval
Line = list[tuple[float, float, float]]


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


def draw_panel(ax: "Axes", collected: Collected, figure: Figure, title: str, lines: dict[str, Line]) -> None:
    """Draws the lines of one panel, with axes and ticks; no legend. Call it within `plot_style.style`."""
    if figure.kind == "dots":
        _draw_dots(ax, collected, figure, title, lines)
        return
    if figure.kind == "depth":
        _draw_layers(ax, figure, title, lines)
        return
    ax.set(
        title=math_label(title),
        xlabel=math_label(figure.xlabel or ("" if figure.kind == "bars" else figure.x)),
        yscale=figure.yscale,
        xscale=figure.xscale,
    )
    places = places_of(collected, figure)
    for i, (label, line) in enumerate(lines.items()):
        x, mean, sd = (list(values) for values in zip(*line, strict=True))
        spread = sd if figure.band == "std" and any(sd) else None
        named: dict[str, Any] = {"label": math_label(label)}
        if figure.kind == "bars":
            width = 0.8 / len(lines)
            x = [group + (i + 0.5) * width - 0.4 for group in x]
            ax.bar(x, mean, width, yerr=spread, **named, **plot_style.bar_style(places[label]))
        elif figure.kind == "curves":
            _draw_curve(ax, x, mean, spread, places[label], named)
        else:
            ax.errorbar(x, mean, yerr=spread, capsize=3, **named, **plot_style.line_style(places[label]))
    _set_ticks(ax, collected, figure, lines)
    if figure.slope is not None:
        _draw_slope(ax, figure.slope, lines)
    if figure.hline:
        plot_style.reference(ax, figure.hline["value"], math_label(figure.hline.get("label", "")) or None)


def _draw_curve(
    ax: "Axes", x: list[float], mean: list[float], sd: list[float] | None, place: int, named: dict[str, Any]
) -> None:
    look = plot_style.line_style(place)
    ax.plot(x, mean, markevery=plot_style.marked(place, len(x)), **named, **look)
    if sd:
        low, high = zip(*((m - s, m + s) for m, s in zip(mean, sd, strict=True)), strict=True)
        ax.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)


def _draw_layers(ax: "Axes", figure: Figure, title: str, layers: dict[str, Line]) -> None:
    """Layers over epochs or steps as a heat map; a layer without a value there is white."""
    at = sorted({x for line in layers.values() for x, *_ in line})
    values = {layer: {x: mean for x, mean, _ in line} for layer, line in layers.items()}
    rows = {layer: [own.get(x, math.nan) for x in at] for layer, own in values.items()}
    heat_maps.heat_map(ax, at, rows, math_label(figure.ylabel or figure.y))
    ax.set(title=math_label(title), xlabel=math_label(figure.xlabel or figure.x))
    plot_style.integer_ticks(ax.xaxis)


def _draw_slope(ax: "Axes", slope: float, lines: dict[str, Line]) -> None:
    """A line of this slope through the first positive point of the first line."""
    points = [(x, mean) for line in lines.values() for x, mean, _ in line if x > 0 and mean > 0]
    if points:
        (x, y), *_ = points
        ends = min(x for x, _ in points), max(x for x, _ in points)
        guide = [y * (end / x) ** slope for end in ends]
        ax.plot(ends, guide, color=plot_style.GREY, linestyle=(0, (4, 3)), linewidth=1, label=f"slope {slope:g}")


def _draw_dots(ax: "Axes", collected: Collected, figure: Figure, title: str, lines: dict[str, Line]) -> None:
    """A dot with its interval for each row, the first one on top; `title` names the metric."""
    places = places_of(collected, figure)
    rows = labels_of([c for c in collected.cells if c.row in figure.where.get("row", [c.row])], "row")
    for i, (label, line) in enumerate(lines.items()):
        at, mean, half = (list(values) for values in zip(*line, strict=True))
        at = [row + 0.5 * (i + 0.5) / len(lines) - 0.25 for row in at]
        look = plot_style.line_style(places[label]) | {"linestyle": "none"}
        named = math_label(label) if len(places) > 1 else None  # the note names a single column
        ax.errorbar(mean, at, xerr=half, capsize=2, label=named, **look)
    ax.set_xlabel(math_label(title))
    ax.set_yticks(range(len(rows)), list(map(math_label, rows)))
    ax.set_ylim(len(rows) - 0.5, -0.5)


def _set_ticks(ax: "Axes", collected: Collected, figure: Figure, lines: dict[str, Line]) -> None:
    if figure.kind == "final":
        ticks = sorted({x for line in lines.values() for x, *_ in line})
        ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
        ax.minorticks_off()
    if figure.kind == "bars":
        groups = labels_of(collected.cells, figure.x)
        ax.set_xticks(range(len(groups)), list(map(math_label, groups)), rotation=30, ha="right", fontsize="small")
    if figure.kind == "curves" and figure.xscale == "linear":
        plot_style.integer_ticks(ax.xaxis)


def places_of(collected: Collected, figure: Figure) -> dict[str, int]:
    """The place of each line among all, which decides its style."""
    labels = split(figure.lines, collected.table.cells, "figure")[1]
    return {label: place for place, label in enumerate(labels)}
