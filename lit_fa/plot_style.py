"""The style of every figure: colours, lines and markers, axes, panels in rows of two, and files without a date.

The colours are those of Okabe and Ito (Color Universal Design, 2008), without their yellow, which white paper hides.
Dashes and markers tell the same lines apart in grey print. A panel has at most `MOST_LINES` lines; `chunked` splits the
others. Matplotlib is imported where something is drawn.
"""

import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, VERMILLION, GREEN, *_, BLACK = COLOURS
GREY = "#707070"  # of notes and of lines that are no data
MOST_LINES = len(COLOURS)  # of a panel
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (5, 2),
    (1.2, 1.6),
    (6, 2, 1.2, 2),
    (9, 2),
    (3, 1.2),
    (6, 2, 1.2, 2, 1.2, 2),
)
MARKERS = "osD^vPX"
HATCHES = ("", "///", "...", "\\\\\\", "xx", "--", "++")
ENDINGS = (".png", ".pdf", ".svg")  # of files that `save` writes
COLUMNS = 2  # of panels
PANEL = (4.2, 3.1)  # inches
_DPI = 120
_MARKS = 9  # markers of a line, about
_ENTRY, _LETTER, _ROW = 0.6, 0.062, 0.17  # inches of a legend's entry without text, of a letter, and of a row
_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": "medium",
    "figure.titlesize": "large",
    "legend.fontsize": "small",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "lit-fa",
}
# no version and no date inside: equal data give equal bytes
_STAMP: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def style(**more: Any) -> AbstractContextManager[None]:
    """Matplotlib's own defaults with this style, whatever the user's settings are.

    Args:
        more: further settings, with `_` for the dots of their names.
    """
    import matplotlib.style

    settings = {_setting(name): value for name, value in more.items()}
    return matplotlib.style.context(["default", {**_STYLE, **settings}])


def canvas(panels: int, size: tuple[float, float] = PANEL, *, sharey: bool = True) -> tuple["Figure", list["Axes"]]:
    """A figure with panels in rows of two, and their axes. Call it, and all that draws, within `style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(panels, COLUMNS)
    rows = -(-panels // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False).flatten()
    for unused in axes[panels:]:
        unused.remove()
    return figure, list(axes[:panels])


def line_style(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of line `index`; no two of 49 consecutive lines are equal.

    >>> line_style(0)["color"] == line_style(7)["color"], line_style(0)["marker"] == line_style(7)["marker"]
    (True, False)
    """
    turn = (index + index // MOST_LINES) % MOST_LINES
    dashes = DASHES[turn]
    return {
        "color": COLOURS[index % MOST_LINES],
        "linestyle": (0, dashes) if dashes else "solid",
        "marker": MARKERS[turn],
    }


def bar_style(index: int) -> dict[str, Any]:
    """Colour and hatching of the bars of line `index`."""
    hatch = HATCHES[(index + index // MOST_LINES) % MOST_LINES]
    return {"color": COLOURS[index % MOST_LINES], "hatch": hatch, "edgecolor": "white", "linewidth": 0}


def marked(index: int, points: int) -> tuple[int, int]:
    """Matplotlib's `markevery`: about nine markers of `points`, at other places than those of the lines beside."""
    every = max(1, round(points / _MARKS))
    return (index * max(1, every // 3)) % every, every


def chunked(panels: Mapping[str, Mapping[str, T]], order: Collection[str]) -> dict[str, dict[str, T]]:
    """Panels of at most seven lines: a fuller one becomes several, named `title (1 of 2)`.

    Args:
        panels: title to lines by label.
        order: of all labels. It decides which lines share a panel, so that these have different styles.

    >>> [[*lines] for lines in chunked({"": dict.fromkeys("abcdefgh", 0)}, "abcdefgh").values()]
    [['a', 'b', 'c', 'd'], ['e', 'f', 'g', 'h']]
    """
    split: dict[str, dict[str, T]] = {}
    for title, lines in panels.items():
        parts = [*_parts(dict(sorted(lines.items(), key=lambda line: [*order].index(line[0]))))]
        for number, part in enumerate(parts, 1):
            of_many = f"({number} of {len(parts)})" if len(parts) > 1 else ""
            split[" ".join(filter(None, (title, of_many)))] = part
    return split


def integer_ticks(axis: Any) -> None:
    """Ticks of an axis at whole numbers alone: epochs, steps and rounds have no halves."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def round_ticks(low: float, high: float) -> list[float]:
    """Two to four round numbers between two numbers, for an axis that is not matplotlib's.

    >>> round_ticks(89.3, 92.1)
    [90.0, 91.0, 92.0]
    """
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def legend(figure: "Figure", note: str = "", order: Sequence[str] = ()) -> None:
    """One legend of all panels, below them, each label once.

    Args:
        figure: with labelled lines.
        note: its first line: scale, number of runs, band.
        order: of labels, which come first; the others follow as they were drawn.
    """
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    entries = {label: found[label] for label in [*(one for one in order if one in found), *found]}
    if not entries:
        if note:
            figure.supxlabel(note, fontsize="small", color=GREY)
        return
    width, height = figure.get_size_inches()
    columns = max(1, min(len(entries), int(width / (_ENTRY + _LETTER * max(map(len, entries))))))
    rows = -(-len(entries) // columns) + bool(note)
    figure.set_size_inches(width, height + _ROW * rows)  # the panels keep their height
    box = figure.legend(
        [*entries.values()],
        [*entries],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title=note or None,
        handlelength=3.2,
    )
    box.get_title().set(fontsize="small", color=GREY)


def reference(axes: "Axes", value: float, label: str | None = None) -> None:
    """A dashed horizontal line that is no data."""
    axes.axhline(value, color=GREY, linestyle=(0, (4, 3)), linewidth=1, label=label)


def save(figure: "Figure", part: Path, ending: str) -> None:
    """Write the figure in the format of `ending` (.png, .pdf, .svg): the same figure gives the same bytes."""
    if ending == ".png":
        _save_png(figure, part)
    else:
        figure.savefig(part, format=ending[1:], metadata=_STAMP[ending])


def _save_png(figure: "Figure", part: Path) -> None:
    """As 256 colours, which a figure without a colour scale has hardly more than: a third of the bytes."""
    from PIL import Image

    packed = io.BytesIO()
    figure.savefig(packed, dpi=_DPI, format="png")
    image = Image.open(packed).convert("RGB")
    if not any(axes.get_label() == "<colorbar>" for axes in figure.axes):
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(part, format="png", optimize=True)


def _setting(name: str) -> str:
    """`svg_fonttype` to `svg.fonttype`."""
    return name.replace("_", ".", 1)


def _parts(lines: Mapping[str, T]) -> Iterator[dict[str, T]]:
    """The lines in as few equal parts of at most seven as there can be."""
    size = math.ceil(len(lines) / max(1, math.ceil(len(lines) / MOST_LINES)))
    names = [*lines]
    for begin in range(0, len(names), max(1, size)):
        yield {name: lines[name] for name in names[begin : begin + size]}
