"""The forecast of layer-parallel training as rows, table and picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from lit_fa import plot_style
from lit_fa.outputs import written

TITLE = "Forecast by a model, not measured: samples a second over one device of backpropagation"
NAMES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "zero_bubble": "zero bubble H1",
    "dfa_sync": "DFA, sync",
    "dfa_full": "DFA, full",
    "drtp": "DRTP",
    "forward_forward": "Forward-Forward",
    "local_losses": "local losses",
}
THROUGH = ("gpipe", "1f1b", "zero_bubble")  # they backpropagate through all stages


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line per number of stages, one column per method."""
    shown = Table(title=TITLE)
    shown.add_column("stages", justify="right")
    methods = [name for name in NAMES if name in rows[0]]
    for name in methods:
        shown.add_column(NAMES[name], justify="right")
    for row in rows:
        shown.add_row(str(row["stages"]), *(f"{row[name]:.4g}" for name in methods))
    return shown


def draw(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write the picture of the rows: both axes logarithmic; its format is the ending of the path."""
    methods = [name for name in NAMES if name in rows[0]]
    stages = [row["stages"] for row in rows]
    lines = {name: [row[name] for row in rows] for name in methods}
    groups = {
        "backward through all stages": THROUGH,
        "no backward through stages": [n for n in NAMES if n not in THROUGH],
    }
    panels = {title: own for title, group in groups.items() if (own := {n: lines[n] for n in group if n in lines})}
    with plot_style.style():
        figure, axes = plot_style.canvas(len(panels))
        for ax, (title, shown) in zip(axes, panels.items(), strict=True):
            for name, values in shown.items():
                ax.plot(stages, values, label=NAMES[name], **plot_style.line_style(methods.index(name)))
            ax.set_xscale("log", base=2)
            ax.set_yscale("log", base=2)
            ax.set(title=title, xlabel="stages, each on a device")
            ax.set_xticks(stages, [f"{stage:g}" for stage in stages])
            ax.yaxis.set_major_formatter("{x:g}")
        axes[0].set_ylabel("samples a second, times one device of backprop")
        figure.suptitle("Layer-parallel training", fontsize="medium")
        plot_style.legend(figure, TITLE.split(":")[0])
        with written(path, "--figure") as part:
            plot_style.save(figure, part, path.suffix)
    return path
