"""How far Forward-Forward's blocks separate true from wrong labels: the goodness of both, as numbers and histograms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_fa import plot_style
from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.probe import Batch, Probe, learner_of
from lit_fa.callbacks.run_pictures import evenly, folder_of, note_of
from lit_fa.functional.criteria import one_hot
from lit_fa.functional.goodness import goodness
from lit_fa.layers import observing
from lit_fa.layers.sharding import gathered
from lit_fa.outputs import written
from lit_fa.rules.learner import Learner
from lit_fa.stage_strategy import stages_of

FILE = "goodness.png"
PANELS = 8  # blocks of a figure
BINS = 30
Pair = tuple[Tensor, Tensor]


class GoodnessHistogram(Probe):
    """Logs `goodness/separated/<block>`, and draws `goodness.png` when training ends: a histogram for each block.

    * separated: percent of the probe batch's samples whose goodness is higher with the true label than with a wrong
      one; 50 is chance;
    * the figure has the goodness of the samples with the true label (positive data) and with a wrong one (negative),
      and the threshold of the loss. Of more than eight blocks it has eight, evenly spaced, and says so.

    Args:
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.
        batch: largest number of samples in the probe batch.
        dirpath: folder of the figure; None: `figures` in the trainer's log folder.

    Raises:
        MeasurementError: when training starts, for a rule without goodness.
    """

    def __init__(self, every_n_steps: int = 0, batch: int = 256, dirpath: str | None = None):
        """See the class."""
        super().__init__(every_n_steps, batch)
        self.dirpath = dirpath
        self.drawn: list[Path] = []  # by the last fit

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a rule without goodness."""
        _check(learner_of(pl_module))

    def measure(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """Percent of separated samples, by key."""
        pairs = goodness_of(learner, batch)
        return {f"goodness/separated/{n}": 100 * (p > q).double().mean().item() for n, (p, q) in pairs.items()}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the figure, then release the probe batch."""
        folder = folder_of(trainer, self.dirpath)  # a collective operation
        self.be_ready(trainer, pl_module)
        assert self.data is not None  # by `be_ready`
        learner, samples = learner_of(pl_module), len(self.data[1])
        if stages := stages_of(trainer):
            stages.gather()  # a stage has only its own weights
        with gathered(learner):
            pairs = goodness_of(learner, self.data)
        if trainer.is_global_zero:
            thresholds = threshold_of(learner.rule)
            note = f"{note_of(learner)}; {samples} samples at the end of training"
            self.drawn = [plot(folder / FILE, pairs, str(learner.rule.goodness), thresholds, note)]
        super().on_train_end(trainer, pl_module)


@torch.no_grad()
def goodness_of(learner: Learner, batch: Batch) -> dict[str, Pair]:
    """Block to the goodness (n,) of a batch with the true labels, and with the wrong labels of this step.

    Args:
        learner: of the rule ForwardForward.
        batch: inputs (n, ...) and targets (n,).

    Raises:
        MeasurementError: the rule has no goodness.
    """
    _check(learner)
    rule: Any = learner.rule
    network, (inputs, targets) = learner.network, batch
    pairs: dict[str, Pair] = {}

    def keep(name: str, output: Tensor, _squares: Tensor) -> None:
        positive, negative = goodness(output, rule.goodness).chunk(2)
        pairs[name] = positive.cpu(), negative.cpu()

    with observing(network):
        hard = rule.negatives == "hard"
        logits = rule.surrogate(network, batch, learner.criterion).logits if hard else None
        both = torch.stack([targets, rule.wrong_labels(inputs, targets, logits)])
        labels = rule.strength * one_hot(both, inputs.new_zeros(rule.classes))
        rule.taps.visit_all(keep, lambda: rule.labelled(network, inputs, labels))
    return pairs


def threshold_of(rule: Any) -> float | None:
    """The threshold on the mean goodness of a block; None where the loss has none, or one that follows the units."""
    mean = rule.loss == "threshold" and (rule.goodness == "mean" or rule.threshold is not None)
    return rule.contrast_options(1)[1] if mean else None


def plot(path: Path | str, pairs: dict[str, Pair], kind: str, threshold: float | None = None, note: str = "") -> Path:
    """Write the histograms as a PNG and return its path.

    Args:
        path: of the file.
        pairs: from `goodness_of`.
        kind: `mean` or `sum` of the squared activations.
        threshold: drawn as a vertical line.
        note: a line below the panels.
    """
    path = Path(path)
    shown = evenly([*pairs], PANELS)
    if len(shown) < len(pairs):
        note += f"; {len(shown)} of {len(pairs)} blocks"
    with plot_style.style():
        figure, grid = plot_style.canvas(len(shown), sharey=False)
        for axes, name in zip(grid, shown, strict=True):
            both = [values.double() for values in pairs[name]]
            _draw(axes, [values[values.isfinite()].numpy() for values in both], threshold)
            lost = sum(int((~values.isfinite()).sum()) for values in both)
            axes.set(
                title=name + f", {lost} values not finite" * bool(lost),
                xlabel=f"goodness, {kind} of the squared activations",
                ylabel="samples",
            )
        plot_style.legend(figure, note)
        with written(path) as part:
            plot_style.save(figure, part, path.suffix)
    return path


def _draw(axes: Any, both: Sequence[Any], threshold: float | None) -> None:
    import numpy as np

    edges = np.histogram_bin_edges(np.concatenate(both), BINS)
    for k, (label, values) in enumerate(zip(("true label (positive)", "wrong label (negative)"), both, strict=True)):
        look = plot_style.line_style(k)
        axes.hist(values, edges, color=look["color"], alpha=0.25)
        axes.hist(values, edges, histtype="step", color=look["color"], linestyle=look["linestyle"], label=label)
    if threshold is not None:
        axes.axvline(threshold, color=plot_style.GREY, linewidth=1, linestyle=(0, (4, 3)), label="threshold")


def _check(learner: Learner) -> None:
    if not hasattr(learner.rule, "contrast_options"):
        kind = type(learner.rule).__name__
        raise MeasurementError(f"GoodnessHistogram measures Forward-Forward: {kind} has no goodness; remove it")
