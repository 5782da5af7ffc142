"""Figures of one run, drawn when it ends: alignment, conserved potential, client drift, loss and accuracy."""

from pathlib import Path

import lightning as L

from callbacks.curves import Point, Recorder
from lit_fa.outputs import written

# file: title of each panel, and prefix and suffix of the keys of its curves
PANELS = {
    "alignment.png": {
        "W and B": ("align/weight/", ""),
        "update and gradient": ("align/gradient/", ""),
        "deltas": ("align/delta/", ""),
    },
    "conservation.png": {
        "potential over its first value": ("conserve/", "/normalised"),
        "exact prediction": ("conserve/", "/predicted"),
        "worst neuron": ("conserve/", "/worst_neuron"),
    },
    "drift.png": {
        "distance of client updates": ("drift/update/", ""),
        "distance of backward errors": ("drift/transport/", ""),
        "cosine with the average": ("drift/cosine/", ""),
    },
    "training.png": {"loss": ("", "/loss"), "accuracy, %": ("", "/accuracy")},
}
ANGLES = "alignment.png"  # in degrees, with a line at 90


class Figures(Recorder):
    """Writes the figures of `PANELS` at the end of a fit, if there are curves for them.

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
        log_dir = trainer.log_dir  # a collective operation: all ranks must read it
        if not trainer.is_global_zero:
            return
        folder = Path(self.dirpath or Path(log_dir or trainer.default_root_dir) / "figures")
        self.drawn = []
        for file, panels in PANELS.items():
            chosen = {title: select(self.curves.points, *ends) for title, ends in panels.items()}
            if any(chosen.values()):
                draw(folder / file, {title: curves for title, curves in chosen.items() if curves})
                self.drawn.append(folder / file)


def select(curves: dict[str, list[Point]], begin: str, end: str) -> dict[str, list[Point]]:
    """Curves of more than one point with this prefix and suffix, named by the part between; losses by the split."""
    ends = (end, f"{end}_epoch") if not begin else (end,)
    matching = {key: curve for key, curve in curves.items() if key.startswith(begin) and key.endswith(ends)}
    named = {key.removeprefix(begin).removesuffix("_epoch"): curve for key, curve in matching.items() if len(curve) > 1}
    return {name.removesuffix(end).removesuffix(end.strip("/")) or "all layers": c for name, c in named.items()}


def draw(path: Path, panels: dict[str, dict[str, list[Point]]]) -> None:
    """Write a PNG with one panel per title and one line per curve, over the epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in curves.items():
            axes.plot([epoch for _, epoch, _ in points], [value for _, _, value in points], label=name)
        if path.name == ANGLES:
            axes.axhline(90, color="grey", linewidth=0.8, linestyle=":")
            axes.set_ylabel("degrees")
        axes.set(title=title, xlabel="epoch")
        axes.legend(fontsize="x-small")
    with written(path) as part:
        figure.savefig(part, dpi=120, format="png")
