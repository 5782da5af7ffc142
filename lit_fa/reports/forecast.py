"""The forecast of layer-parallel training as rows, table and picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

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
DASHED = ("gpipe", "1f1b", "zero_bubble")  # they backpropagate through all stages


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    stages = [row["stages"] for row in rows]
    for name in (name for name in NAMES if name in rows[0]):
        axes.plot(stages, [row[name] for row in rows], "--" if name in DASHED else "-", label=NAMES[name], alpha=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="stages, each on a device", ylabel="times one device of backpropagation")
    axes.set_title(TITLE.split(":")[0], fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with written(path, "--figure") as part:
        figure.savefig(part, dpi=120, format=path.suffix[1:])
    return path
