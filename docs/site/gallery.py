"""The pictures of the gallery, drawn when the site is built: from committed records, and from runs of a few seconds."""

import logging
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch

from lit_fa import Classifier, DirectFeedbackAlignment, FeedbackAlignment, ForwardForward
from lit_fa.callbacks import FeedbackImages, Figures, GoodnessHistogram, GradientAlignment, WeightAlignment
from lit_fa.commands.atlas import build
from lit_fa.commands.forecast import doubling, forecast
from lit_fa.datamodules import Digits
from lit_fa.datamodules.partition import dirichlet
from lit_fa.datamodules.partition_picture import partition_picture
from lit_fa.reports import scatter
from lit_fa.reports.figures import draw_to
from lit_fa.reports.forecast import draw as draw_forecast
from lit_fa.results.records import collect, curves_read
from lit_fa.rules.base import LearningRule
from lit_fa.spec.figure import Figure, with_labels_of
from lit_fa.spec.table import load_table

CONFIGS = Path(__file__).parents[2] / "paper_configs"
# picture: table, scale, and the name of the declared figure
DECLARED = {
    "drift_over_step": ("conservation/rates.yaml", "cpu", "rates.png"),
    "potential": ("conservation/figure2.yaml", "cpu", "figure2-all.png"),
    "client_drift": ("flfa/drift.yaml", "cpu", "drift-update.png"),
    "angles": ("fwm/ablation.yaml", "cpu", "ablation-ga.png"),
}


def write(folder: Path) -> None:
    """Write all pictures of the gallery."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (table, scale, figure) in DECLARED.items():
        declared(CONFIGS / table, scale, figure, folder / f"{name}.svg")
    by_depth(
        CONFIGS / "fwm/glue.yaml", ["neither (DFA)", "both (FWM)"], "MRPC, decay 0.0", folder / "layers_of_a_table.svg"
    )
    scatter.draw(build(CONFIGS)[0].pairs, folder / "atlas.svg")
    trained(folder)
    draw_forecast(forecast(doubling()), folder / "forecast.svg")
    targets = Digits(batch_size=64, val_size=0)
    targets.setup("fit")
    labels = torch.cat([y for _, y in targets.train_dataloader()]).numpy()
    partition_picture(labels, dirichlet(labels, 12, 0.3, seed=0), folder / "partition.png")


def declared(path: Path, scale: str, file: str, picture: Path) -> None:
    """Draw one declared figure of a table from its committed records."""
    table = load_table(path)
    chosen = table.scale(scale)
    records = collect(table, chosen, path.parent / "results" / table.name / chosen.label, curves=curves_read(table))
    figure = next(figure for figure in table.figures if figure.file == file)
    assert draw_to(records, figure, picture) is not None, f"{path}: no record of {file}"


def by_depth(path: Path, rows: list[str], column: str, picture: Path) -> None:
    """Draw the angles of all layers of some rows of a table."""
    table = load_table(path)
    scale = table.scale("cpu")
    figure = Figure(
        file=picture.name,
        kind="depth",
        y="align/delta/",
        ylabel="degrees from backprop's",
        panels=rows,
        where={"row": rows, "column": [column]},
    )
    records = collect(table, scale, path.parent / "results" / table.name / scale.label)
    assert draw_to(records, with_labels_of(figure, table.cells, "gallery"), picture) is not None, path


def trained(folder: Path) -> None:
    """Draw what needs a network: short runs on digits."""
    at = str(folder)
    train(ForwardForward(), (200, 200), 15, [GoodnessHistogram(dirpath=at)], "relu")
    few = [WeightAlignment(), GradientAlignment(), Figures(at), FeedbackImages(at)]
    train(FeedbackAlignment(), (48, 32), 10, few)
    (folder / "alignment.png").rename(folder / "layers.png")
    train(DirectFeedbackAlignment(seed=3), (64,) * 49, 6, [GradientAlignment(), Figures(at)])
    (folder / "alignment.png").rename(folder / "depth.png")


def train(
    rule: LearningRule, hidden: Sequence[int], epochs: int, callbacks: list[L.Callback], activation: str = "tanh"
) -> None:
    """A quiet run on scikit-learn's digits."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    L.seed_everything(0, verbose=False)
    data = Digits(batch_size=64, val_size=0.2)
    model = Classifier(
        "mlp",
        rule,
        network_args={"hidden": [*hidden], "activation": activation},
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        optimizer=lambda params: torch.optim.Adam(params, lr=3e-3),
    )
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(model, data)
