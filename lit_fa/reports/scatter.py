"""Published against measured accuracy, a point for each cell of a table, as a picture in a page or in a file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from lit_fa import plot_style
from lit_fa.outputs import written
from lit_fa.reports.svg import inline
from lit_fa.results.atlas import Entry
from lit_fa.results.verdict import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pair = tuple[Entry, float]  # a measured number, and the published one that its table compares it with
AXES = ((0, 100), (90, 100))  # percent; most published accuracies of small data sets are above 90
REDUCED = "at a reduced scale: no verdict"
# kind of point: colour, marker, filled; shapes also differ in grey print
LOOKS: dict[str, tuple[str, str, bool]] = {
    REDUCED: (plot_style.GREY, "o", False),
    "at the paper's own scale: no verdict": (plot_style.BLUE, "D", True),
    "refuted": (plot_style.VERMILLION, "s", True),
    "agrees": (plot_style.GREEN, "o", True),
}
_STATES = {Kind.AGREES: "agrees", Kind.DIFFERS: "refuted"}
_SIZE = (4.2, 4.2)


def images(pairs: Sequence[Pair], key: str) -> list[str]:
    """The two panels as SVG inside a page; a point has its numbers as a title.

    Args:
        pairs: measured and published numbers, in percent.
        key: prefix of every id inside the images.
    """
    with plot_style.style(svg_fonttype="none", svg_hashsalt=key, figure_facecolor="none", axes_facecolor="none"):
        return [_image(pairs, axis, f"{key}-{i}") for i, axis in enumerate(AXES)]


def draw(pairs: Sequence[Pair], path: Path) -> Path:
    """Writes both panels with their legend to a file (.png, .svg or .pdf) and returns its path."""
    with plot_style.style():
        canvas, grid = plot_style.canvas(len(AXES), _SIZE, sharey=False)
        for axes, axis in zip(grid, AXES, strict=True):
            _draw(axes, pairs, axis)
        plot_style.legend(canvas, note(pairs))
        with written(path, "--write", follow=False) as part:
            plot_style.save(canvas, part, path.suffix)
    return path


def kinds(pairs: Sequence[Pair]) -> Counter[str]:
    """How many points of each kind there are, those with a verdict first."""
    found = Counter(_kind(entry) for entry, _ in pairs)
    return Counter({kind: found[kind] for kind in reversed(LOOKS) if found[kind]})


def note(pairs: Sequence[Pair]) -> str:
    """What the picture shows: number of cells and runs, and the bars."""
    runs = sorted({entry.runs for entry, _ in pairs if entry.runs})
    of = " to ".join(map(str, dict.fromkeys((runs[0], runs[-1])))) if runs else "0"
    return f"{len(pairs)} cells of tables, each the mean of {of} runs; bars: 95 % of the mean"


def _image(pairs: Sequence[Pair], axis: tuple[int, int], key: str) -> str:
    canvas, (axes,) = plot_style.canvas(1, _SIZE)
    shown = _draw(axes, pairs, axis)
    low, high = axis
    text = f"Scatter of {len(shown)} measured accuracies over the published ones, {low} to {high} %"
    svg = inline(canvas, key, text)
    for i, (entry, published) in enumerate(shown):
        begin = f'<g id="{key}-point{i}">'
        svg = svg.replace(begin, f"{begin}<title>{escape(_title(entry, published))}</title>")
    return svg


def _draw(axes: "Axes", pairs: Sequence[Pair], axis: tuple[int, int]) -> list[Pair]:
    """Draws the pairs that lie on the axis, those with a verdict last and so on top, and returns them in this order."""
    low, high = axis
    order = [*LOOKS]
    shown = sorted((p for p in pairs if low <= min(p[0].value, p[1])), key=lambda pair: order.index(_kind(pair[0])))
    axes.plot(axis, axis, color=plot_style.GREY, linestyle=(0, (4, 3)), linewidth=1)
    named = set[str]()
    for i, (entry, published) in enumerate(shown):
        kind = _kind(entry)
        colour, marker, filled = LOOKS[kind]
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none"}
        label = "_" if kind in named else f"{kind} ({kinds(pairs)[kind]})"
        named.add(kind)
        if entry.interval:
            ends = (entry.value - entry.interval, entry.value + entry.interval)
            axes.plot([published] * 2, ends, color=colour, linewidth=0.8)
        face = colour if filled else "none"
        axes.plot([published], [entry.value], label=label, gid=f"point{i}", markerfacecolor=face, **look)
    margin = 0.02 * (high - low)
    limits = (low - margin, high + margin)
    axes.set(xlabel="published accuracy, %", ylabel="measured accuracy, %", xlim=limits, ylim=limits, aspect="equal")
    return shown


def _kind(entry: Entry) -> str:
    if not entry.scale.startswith("full"):
        return REDUCED
    return _STATES.get(entry.kind, [*LOOKS][1]) if entry.kind else [*LOOKS][1]


def _title(entry: Entry, published: float) -> str:
    half = f" ± {entry.interval:.2f}" if entry.interval is not None else ""
    measured = f"measured {entry.value:.2f}{half}, scale {entry.scale}"
    return f"{entry.label} ({entry.source}): published {published:.2f}, {measured}"
