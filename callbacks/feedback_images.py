"""Feedback matrices as images beside the weights that they stand for."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_fa import heat_maps, plot_style
from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.probe import Batch, first_batch, learner_of
from lit_fa.callbacks.run_pictures import evenly, folder_of, note_of
from lit_fa.callbacks.weight_alignment import compared_weight, counterparts, products_of
from lit_fa.functional.alignment import angle
from lit_fa.layers.sharding import gathered
from lit_fa.outputs import written
from lit_fa.rules.learner import Learner
from lit_fa.stage_strategy import stages_of

FILE = "feedback.png"
LAYERS = 4  # rows of a figure
UNITS = 64  # rows and columns of an image
Pair = tuple[Tensor, Tensor]


class FeedbackImages(L.Callback):
    """Draws `feedback.png` when training ends: W and B of each layer side by side, and their angle in degrees.

    Under direct feedback, F_l^T F_{l-1} takes the place of B, as in `WeightAlignment`. Of large matrices the first 64
    rows and columns are drawn, of more than four layers four, evenly spaced; the figure says so.

    Args:
        dirpath: folder of the figure; None: `figures` in the trainer's log folder.

    Raises:
        MeasurementError: when training starts, if no layer has a backward matrix of its weight's shape.
    """

    def __init__(self, dirpath: str | None = None):
        """See the class."""
        self.dirpath = dirpath
        self.drawn: list[Path] = []  # by the last fit

    def measure(self, learner: Learner, batch: Batch) -> dict[str, Pair]:
        """Layer to weight and backward matrix, each (out, in); the order of the layers is that of a forward pass."""
        return matrices_of(learner, batch)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a rule without such matrices.

        Raises:
            MeasurementError: the rule has no backward matrix of a weight's shape.
        """
        learner = learner_of(pl_module)
        with gathered(learner):
            found = matrices_of(learner, first_batch(trainer, pl_module))
        if not found:
            kind = type(learner.rule).__name__
            raise MeasurementError(f"FeedbackImages: {kind} has no backward matrix of a weight's shape here; remove it")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the figure."""
        folder, learner = (
            folder_of(trainer, self.dirpath),
            learner_of(pl_module),
        )  # the folder is a collective operation
        if stages := stages_of(trainer):
            stages.gather()
        with gathered(learner):
            matrices = matrices_of(learner, first_batch(trainer, pl_module))
        if trainer.is_global_zero:
            self.drawn = [plot(folder / FILE, matrices, note_of(learner))]


@torch.no_grad()
def matrices_of(learner: Learner, batch: Batch) -> dict[str, Pair]:
    """Layer to its weight and its backward matrix, both (out, in) on the CPU; a kernel as (out, in k k)."""
    compared = counterparts(learner.network, products_of(learner, batch[0]))
    pairs = {name: (compared_weight(learner.network, name), matrix) for name, matrix in compared.items()}
    order = heat_maps.depth_order(pairs, [name for name, _ in learner.network.named_modules()])
    return {name: (_flat(pairs[name][0]), _flat(pairs[name][1])) for name in order}


def plot(path: Path | str, matrices: dict[str, Pair], note: str = "") -> Path:
    """Write the images as a PNG and return its path.

    Args:
        path: of the file.
        matrices: from `matrices_of`.
        note: a line below the panels.
    """
    path = Path(path)
    shown = evenly([*matrices], LAYERS)
    if len(shown) < len(matrices):
        note += f"; {len(shown)} of {len(matrices)} layers"
    with plot_style.style(axes_grid=False):
        figure, grid = plot_style.canvas(2 * len(shown), sharey=False)
        for name, left, right in zip(shown, grid[::2], grid[1::2], strict=True):
            weight, feedback = matrices[name]
            apart = angle(weight, feedback).item()
            _draw(left, weight, f"{name}: W")
            _draw(right, feedback, f"{name}: B, {apart:.0f} degrees from W")
        plot_style.legend(figure, note)
        with written(path) as part:
            plot_style.save(figure, part, path.suffix)
    return path


def _draw(axes: Any, matrix: Tensor, title: str) -> None:
    """An image with zero in the middle of its scale; the outermost percent is cut off, what is not finite is white."""
    part = matrix[:UNITS, :UNITS].double()
    finite = part[part.isfinite()]
    most = (finite.abs().quantile(0.99).item() if len(finite) else 0.0) or 1.0
    image = axes.imshow(
        part.numpy(), cmap=heat_maps.HEAT, vmin=-most, vmax=most, interpolation="nearest", aspect="auto"
    )
    axes.figure.colorbar(image, ax=axes, label="weight")
    for axis, name, size in ((axes.xaxis, "input", matrix.shape[1]), (axes.yaxis, "output", matrix.shape[0])):
        plot_style.integer_ticks(axis)
        axis.set_label_text(f"{name}, the first {UNITS} of {size}" if size > UNITS else name)
    axes.set_title(title)


def _flat(matrix: Tensor) -> Tensor:
    return matrix.detach().flatten(1).float().cpu()
