"""Figures of one run, drawn when it ends: alignment, conserved potential, client drift, loss and accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from lit_fa import heat_maps, plot_style
from lit_fa.callbacks.curves import Point, Recorder
from lit_fa.callbacks.probe import learner_of
from lit_fa.callbacks.run_pictures import folder_of, note_of
from lit_fa.outputs import written


@dataclass(frozen=True)
class Panel:
    """Which curves are drawn: prefix and suffix of their keys, and the unit on the axis."""

    begin: str
    end: str
    unit: str


# file: title of each panel
PANELS = {
    "alignment.png": {
        "W and B": Panel("align/weight/", "", "angle, degrees"),
        "update and gradient": Panel("align/gradient/", "", "angle, degrees"),
        "errors": Panel("align/delta/", "", "angle, degrees"),
    },
    "conservation.png": {
        "potential": Panel("conserve/", "/normalised", "potential / first value"),
        "exact prediction": Panel("conserve/", "/predicted", "potential / first value"),
        "worst neuron": Panel("conserve/", "/worst_neuron", "drift / mean first value"),
    },
    "drift.png": {
        "client updates": Panel("drift/update/", "", "mean distance of two clients, norm"),
        "errors sent back": Panel("drift/transport/", "", "mean distance of two clients, norm"),
        "client update and the round's": Panel("drift/cosine/", "", "cosine"),
    },
    "training.png": {
        "loss": Panel("", "/loss", "criterion, mean of a sample"),
        "accuracy": Panel("", "/accuracy", "accuracy, %"),
    },
}
RIGHT = {"alignment.png": (90.0, "no alignment"), "conservation.png": (1.0, "conserved")}  # lines that are no data
WHOLE = ("all layers", "overall", "inexact")  # curves of several layers together


class Figures(Recorder):
    """Writes the figures of `PANELS` at the end of a fit, if there are curves for them.

    More than seven curves in a panel, of as many layers, are drawn as a heat map of layers over epochs.

    Args:
        dirpath: folder; None: `figures` in the trainer's log folder.
    """

    def __init__(self, dirpath: str | None = None):
        """See the class."""
        super().__init__()
        self.dirpath = dirpath
        self.drawn: list[Path] = []  # by the last fit

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the figures."""
        folder = folder_of(trainer, self.dirpath)  # a collective operation
        if not trainer.is_global_zero:
            return
        self.drawn = []
        module = learner_of(pl_module)
        depth = [name for name, _ in module.network.named_modules()]
        note = note_of(module)
        federated = hasattr(pl_module, "movements")
        points = in_rounds(self.curves.points) if federated else self.curves.points
        for file, panels in PANELS.items():
            chosen = {title: select(points, panel.begin, panel.end) for title, panel in panels.items()}
            if any(chosen.values()):
                curves = {title: ordered(lines, depth) for title, lines in chosen.items() if lines}
                draw(folder / file, curves, x="round" if federated else "epoch", note=note, depth=depth)
                self.drawn.append(folder / file)


def in_rounds(curves: dict[str, list[Point]]) -> dict[str, list[Point]]:
    """The curves over optimiser steps, which are rounds in federated training."""
    return {key: [(step, float(step), value) for step, _, value in curve] for key, curve in curves.items()}


def ordered(curves: dict[str, list[Point]], depth: Sequence[str]) -> dict[str, list[Point]]:
    """The curves of layers from input to output, then those of the whole network."""
    layers = heat_maps.depth_order([name for name in curves if name not in WHOLE], depth)
    return {name: curves[name] for name in [*layers, *(name for name in curves if name in WHOLE)]}


def select(curves: dict[str, list[Point]], begin: str, end: str) -> dict[str, list[Point]]:
    """Curves of more than one point with this prefix and suffix, named by the part between; losses by the split."""
    ends = (end, f"{end}_epoch") if not begin else (end,)
    matching = {key: curve for key, curve in curves.items() if key.startswith(begin) and key.endswith(ends)}
    named = {key.removeprefix(begin).removesuffix("_epoch"): curve for key, curve in matching.items() if len(curve) > 1}
    return {name.removesuffix(end).removesuffix(end.strip("/")) or "all layers": c for name, c in named.items()}


def draw(
    path: Path,
    panels: dict[str, dict[str, list[Point]]],
    *,
    x: str = "epoch",
    note: str = "",
    depth: Sequence[str] = (),
) -> None:
    """Write a PNG with one panel per title: a line per curve, or more than seven as a heat map over the layers.

    Args:
        path: of the file; its name chooses the units, see `PANELS`.
        panels: title to curves by name, from input to output.
        x: what the epochs of the points are called: `epoch` or `round`.
        note: a line below the panels.
        depth: the network's modules in their order, for the legend.
    """
    names = [*ordered({name: curve for curves in panels.values() for name, curve in curves.items()}, depth)]
    places = {name: place for place, name in enumerate(names)}
    with plot_style.style():
        figure, grid = plot_style.canvas(len(panels), sharey=False)
        for axes, (title, curves) in zip(grid, panels.items(), strict=True):
            unit = PANELS[path.name][title].unit
            if len(curves) > plot_style.MOST_LINES:
                draw_depth(axes, title, curves, unit)
            else:
                draw_lines(axes, title, curves, unit, places, RIGHT.get(path.name))
            axes.set_xlabel(x)
            plot_style.integer_ticks(axes.xaxis)
        plot_style.legend(figure, note, names)
        with written(path) as part:
            plot_style.save(figure, part, path.suffix)


def draw_lines(
    axes: Any,
    title: str,
    curves: dict[str, list[Point]],
    unit: str,
    places: dict[str, int],
    right: tuple[float, str] | None,
) -> None:
    """One line for each curve, and a reference line."""
    for name, points in curves.items():
        x, y = [epoch for _, epoch, _ in points], [value for *_, value in points]
        axes.plot(
            x, y, label=name, markevery=plot_style.marked(places[name], len(x)), **plot_style.line_style(places[name])
        )
    axes.set(title=title, ylabel=unit)
    if right is not None and "neuron" not in title:
        plot_style.reference(axes, *right)


def draw_depth(axes: Any, title: str, curves: dict[str, list[Point]], unit: str) -> None:
    """Layers over epochs as a heat map; the curves of the whole network are in the title, by their last values."""
    layers = {name: curve for name, curve in curves.items() if name not in WHOLE}
    x = sorted({epoch for curve in layers.values() for _, epoch, _ in curve})
    values = {name: {epoch: value for _, epoch, value in curve} for name, curve in layers.items()}
    heat_maps.heat_map(axes, x, {n: [at.get(epoch, math.nan) for epoch in x] for n, at in values.items()}, unit)
    whole = ", ".join(f"{name} {curves[name][-1][2]:.3g}" for name in curves if name in WHOLE)
    axes.set_title(f"{title} of {len(layers)} layers, input on top" + (f"\nat the end: {whole}" if whole else ""))
