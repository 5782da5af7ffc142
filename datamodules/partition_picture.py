"""A picture of a partition: one row per client, one column per class, darker for more samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from lit_fa.datamodules.atomic_write import whole
from lit_fa.datamodules.errors import one_of
from lit_fa.datamodules.partition import class_counts

_ENDINGS = (".png", ".pdf")
_ROWS = 5000  # of more clients, every second, third, ... is shown
_READABLE = 400  # largest number of cells for which the numbers are written


def partition_picture(labels: ArrayLike, parts: Sequence[ArrayLike], path: str | Path) -> Path:
    """Draw the (k, c) counts of a partition and return the path; a missing folder is created.

    Args:
        labels: (n,), of the whole data set.
        parts: k index arrays, as returned by the functions of `datamodules.partition`.
        path: a .png or .pdf file.

    Raises:
        DataError: another file type.
    """
    from lit_fa import plot_style  # the style of all figures; data need nothing else of the package

    path = Path(path)
    one_of("ending of the picture", path.suffix, _ENDINGS)
    counts, classes = class_counts(labels, parts), np.unique(np.asarray(labels))
    with plot_style.style(axes_grid=False), whole(path) as part:
        plot_style.save(_drawn(counts, classes), part, path.suffix)
    return path


def _drawn(counts: NDArray[Any], classes: NDArray[Any]) -> Any:
    """The figure of (k, c) counts."""
    from lit_fa import plot_style

    sizes, every = counts.sum(1), -(-len(counts) // _ROWS)
    shown = counts[::every]
    height, width = (min(1.6 + 0.24 * rows, 9) for rows in shown.shape)
    figure, (axes,) = plot_style.canvas(1, (width + 1.6, height))
    drawn = axes.imshow(shown, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    figure.colorbar(drawn, label="samples")
    label = "client" if every == 1 else f"client / {every}"
    axes.set(xlabel="class", ylabel=label, title=f"{len(counts)} clients of {sizes.min()} to {sizes.max()} samples")
    plot_style.integer_ticks(axes.yaxis)
    if counts.shape[1] <= 50:
        axes.set_xticks(range(len(classes)), [str(label) for label in classes], fontsize="small")
    if counts.size <= _READABLE:
        _write_numbers(axes, counts)
    return figure


def _write_numbers(axes: Axes, counts: NDArray[Any]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if count > counts.max() / 2 else "black"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=6, color=colour)
