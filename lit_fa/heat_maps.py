"""Heat maps over depth: many layers as rows over epochs, in place of as many lines."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice, pairwise, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAT = "cividis"  # lightness grows with the value, for every kind of colour vision
_NAMED_ROWS = 24


def heat_map(axes: "Axes", x: Sequence[float], rows: Mapping[str, Sequence[float]], unit: str) -> None:
    """Rows by name over x, the first one on top, with the scale of the colours beside them.

    Args:
        axes: to draw on.
        x: (p,) increasing.
        rows: name to (p,) values; nan is left white.
        unit: of the values.
    """
    import numpy as np

    edges = _edges(x)
    values = np.array([*rows.values()], dtype=float)
    drawn = axes.pcolormesh(edges, np.arange(len(rows) + 1) - 0.5, values, cmap=HEAT, rasterized=True)
    every = -(-len(rows) // _NAMED_ROWS)
    names = [name.removeprefix(_shared(rows)) for name in islice(rows, 0, None, every)]
    axes.set_yticks(range(0, len(rows), every), names, fontsize="x-small")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.figure.colorbar(drawn, ax=axes, label=unit)


def same_colours(axes: Sequence["Axes"]) -> None:
    """One scale of colours for all heat maps among the axes, so that panels can be compared."""
    import numpy as np

    maps = [drawn for ax in axes for drawn in ax.collections]
    arrays = [np.ma.filled(array, np.nan).ravel() for drawn in maps if (array := drawn.get_array()) is not None]
    values = np.concatenate([*arrays, np.array([np.nan])])
    finite = values[np.isfinite(values)]
    for drawn in maps if finite.size else ():
        drawn.set_clim(float(finite.min()), float(finite.max()))


def depth_order(names: Collection[str], known: Sequence[str] = ()) -> list[str]:
    """Names of layers from input to output: as in `known`, and the others by the numbers in them.

    >>> depth_order(["blocks.10", "head", "blocks.2"])
    ['blocks.2', 'blocks.10', 'head']
    """
    place = {name: index for index, name in enumerate(known)}
    return sorted(names, key=lambda name: (place.get(name, len(place)), _natural(name)))


def _shared(names: Iterable[str]) -> str:
    """The modules that all names begin with: `model.` of `model.stem` and `model.head`."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{level[0]}." for level in takewhile(lambda level: len({*level}) == 1, levels))


def _edges(centres: Sequence[float]) -> list[float]:
    """The borders of cells around the centres."""
    if len(centres) == 1:
        return [centres[0] - 0.5, centres[0] + 0.5]
    middles = [(a + b) / 2 for a, b in pairwise(centres)]
    return [2 * centres[0] - middles[0], *middles, 2 * centres[-1] - middles[-1]]


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
