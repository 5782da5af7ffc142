"""Small pictures inside a page's tables, as SVG: an interval beside its number, a curve, a partition."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from lit_fa.plot_style import BLUE, round_ticks
from lit_fa.results.compare import Comparison
from lit_fa.results.records import Record
from lit_fa.results.summary import headline

_WIDTH, _HEIGHT = 120, 18  # of an interval
_CURVE = (240, 64)  # whole numbers are fine enough at half this size
_POINTS = 20  # of a small curve, at most
_CLIENTS = 100  # rows of a partition, at most
_CLASSES = 1000  # columns of a partition, at most
_BLUE = tuple(int(BLUE[i : i + 2], 16) / 255 for i in (1, 3, 5))  # seen on white and on black


def intervals(comparisons: Sequence[Comparison]) -> list[Markup]:
    """A picture for every cell: runs are dots, mean and interval a bar, the published number a diamond.

    The cells of one column and metric share an axis, so that rows can be compared; columns are often data sets.
    """
    spans = _spans(comparisons)
    return [_interval(c, spans[_axis(c)]) for c in comparisons]


def axes(comparisons: Sequence[Comparison]) -> list[tuple[str, Markup]]:
    """(what it is of, picture) of every axis that the pictures of `intervals` share, with numbers at its ticks."""
    named: dict[tuple[str | bool, ...], str] = {}
    for c in comparisons:
        difference = "difference, " if c.of_difference else ""
        named.setdefault(_axis(c), f"{c.cell.column or 'all'}: {difference}{headline(c.cell.metric)}")
    spans = {key: span for key, span in _spans(comparisons).items() if span}
    return [(named[key].removeprefix("all: "), _ticked(span, named[key])) for key, span in spans.items()]


def _spans(comparisons: Sequence[Comparison]) -> dict[tuple[str | bool, ...], list[float]]:
    """All numbers on each axis."""
    spans: dict[tuple[str | bool, ...], list[float]] = {}
    for c in comparisons:
        spans.setdefault(_axis(c), []).extend(_extent(c))
    return spans


def _ticked(extent: Sequence[float], name: str) -> Markup:
    """An axis as wide as the pictures, with two to four ticks at round numbers."""
    span = _span(extent)
    ticks = round_ticks(*span)
    drawn = f'<path class="axis" d="M0 .5H{_WIDTH}' + "".join(f"M{_at(t, span, _WIDTH)} .5v4" for t in ticks) + '"/>'
    drawn += "".join(f'<text x="{_at(t, span, _WIDTH)}" y="15" text-anchor="middle">{t:.6g}</text>' for t in ticks)
    return _image("interval", f"-6 0 {_WIDTH + 12} {_HEIGHT}", f"axis of {name}: {span[0]:.4g} to {span[1]:.4g}", drawn)


def curve(lines: Sequence[Sequence[tuple[float, float]]], description: str) -> Markup:
    """Lines of (x, y) on one pair of axes, without labels; `description` is for screen readers."""
    finite = [[(x, y) for x, y in line if math.isfinite(y)] for line in lines]
    points = [point for line in finite for point in line]
    if not points:
        return Markup("")
    (width, height), xs, (low, high) = _CURVE, _span([x for x, _ in points]), _span([y for _, y in points])
    at = {x: _whole(x, xs, width) for x in dict.fromkeys(x for x, _ in points)}  # runs have the same few places
    drawn = "".join(
        f'<polyline points="{" ".join([f"{at[x]},{_whole(y, (high, low), height)}" for x, y in line])}"/>'
        for line in map(_thinned, finite)
        if line
    )
    return _image("curve", f"-4 -4 {width + 8} {height + 8}", description, drawn)


def partition(counts: Sequence[Sequence[int]]) -> Markup:
    """Samples of each client (row) in each class (column), darker for more samples; the first hundred clients."""
    import numpy as np
    from matplotlib.image import imsave  # a hundred clients are a kilobyte as PNG and fifty as SVG

    shown, most = counts[:_CLIENTS], max(max(row) for row in counts)
    image = io.BytesIO()
    pixels = np.array([[(*_BLUE, count / most) for count in row] for row in shown])
    undated: dict[str, Any] = {"Software": None}  # the same counts give the same bytes
    imsave(image, pixels, format="png", metadata=undated)
    sizes = [sum(row) for row in counts]
    description = f"{len(counts)} clients of {min(sizes)} to {max(sizes)} samples in {len(counts[0])} classes"
    source = f"data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}"
    return Markup('<img class="partition" alt="{}" title="{}" src="{}">').format(description, description, source)


def counts_of(record: Record) -> list[list[int]]:
    """The (clients, classes) counts that a federated run recorded; empty if there are none, or they cannot be drawn."""
    counts: Any = record.data.get("partition")
    fits = isinstance(counts, list) and counts and all(isinstance(row, list) and row for row in counts)
    whole = fits and all(isinstance(count, int) and count >= 0 for row in counts for count in row)
    drawable = whole and len({len(row) for row in counts}) == 1 and len(counts[0]) <= _CLASSES
    return counts if drawable and any(map(any, counts)) else []


def _axis(c: Comparison) -> tuple[str | bool, ...]:
    return c.cell.column, c.cell.metric.name, c.cell.metric.unit, c.cell.metric.at, c.of_difference


def _extent(c: Comparison) -> list[float]:
    """All numbers in the picture of a cell."""
    mean, half = c.summary.mean, c.summary.interval or 0.0
    interval = [mean - half, mean + half] if mean is not None else []
    return [v for v in (*c.summary.values, *interval, *_published(c)) if math.isfinite(v)]


def _published(c: Comparison) -> list[float]:
    """The published number of a cell that can be compared with it; empty for another cell."""
    return [c.published.value] if c.published and c.difference is not None else []


def _interval(c: Comparison, extent: Sequence[float]) -> Markup:
    if c.summary.mean is None or not math.isfinite(c.summary.mean):
        return Markup("")
    span, middle = _span(extent), _HEIGHT / 2
    mean, half = c.summary.mean, c.summary.interval or 0.0
    low, centre, high = (_at(value, span, _WIDTH) for value in (mean - half, mean, mean + half))
    drawn = f'<path class="bar" d="M{low} {middle}H{high}M{centre} 3V{_HEIGHT - 3}"/>'
    drawn += "".join(f'<circle cx="{_at(v, span, _WIDTH)}" cy="{middle}" r="2.4"/>' for v in c.summary.values)
    for published in _published(c):
        at = _at(published, span, _WIDTH)
        drawn += f'<path class="published" d="M{at} {middle - 5}l5 5l-5 5l-5 -5z"/>'
    description = f"runs {', '.join(f'{v:.4g}' for v in c.summary.values)}" + (f"; 95 % ± {half:.2g}" if half else "")
    description += "".join(f"; published {published:g}" for published in _published(c))
    return _image("interval", f"-6 0 {_WIDTH + 12} {_HEIGHT}", description, drawn)


def _image(kind: str, box: str, description: str, body: str) -> Markup:
    text = escape(description)
    title = f"<title>{text}</title>" if kind == "interval" else ""  # the page has name and range of a curve beside it
    return Markup(f'<svg class="{kind}" viewBox="{box}" role="img" aria-label="{text}">{title}{body}</svg>')


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _at(value: float, span: tuple[float, float], width: int) -> str:
    return f"{(value - span[0]) / (span[1] - span[0]) * width:.1f}".removesuffix(".0")


def _whole(value: float, span: tuple[float, float], width: int) -> int:
    return round((value - span[0]) / (span[1] - span[0]) * width)


def _thinned(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_POINTS` points of a line, the first and the last among them."""
    if len(line) <= _POINTS:
        return list(line)
    return [line[round(i * (len(line) - 1) / (_POINTS - 1))] for i in range(_POINTS)]
