"""The predictions of a network for every sample, as a CSV file."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch import distributed as dist

from lit_fa.callbacks.errors import MeasurementError
from lit_fa.outputs import writable_file, written

Row = tuple[float, list[float]]  # target and logits


class PredictionTable(L.Callback):
    """Writes one row for every predicted sample: ``index, target, predicted, logit_0, ...``.

    `index` is the sample's index in the split, for any order of batches and any number of ranks. If samples are files,
    the column is `file`; a name that a spreadsheet would read as a formula gets a leading quote. `logit_k` is the
    rule's own score of class k. With one output, `predicted` is that number and there are no logit columns. Without
    labels, `target` is empty.

    Args:
        path: of the CSV; its folder must exist.

    Raises:
        MeasurementError: the folder does not exist.
        UserError: the file cannot be written. Both are raised before anything is predicted.
    """

    def __init__(self, path: str | Path):
        """See the class."""
        self.path = Path(path)
        self.rows: dict[int, Row] = {}
        self.loader: Any = None
        if not self.path.parent.is_dir():
            raise MeasurementError(f"--output {self.path}: there is no folder {self.path.parent}")
        writable_file(self.path, "--output")

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the sample indices of this rank's batches.

        Raises:
            MeasurementError: the data module is not one of `datamodules`.
        """
        self.loader, self.rows = trainer.predict_dataloaders, {}
        if not hasattr(self.loader, "shares"):
            raise MeasurementError("predictions need a data module of `datamodules`, whose order of samples is known")
        self.shares = self.loader.shares()

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Tensor, batch: Any, batch_idx: int, *_: object
    ) -> None:
        """Store logits and targets."""
        places, targets = self.shares[batch_idx].tolist(), batch[1].tolist()
        for place, target, logits in zip(places, targets, outputs.float().cpu().tolist(), strict=True):
            self.rows[place] = (target, logits)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the ranks' rows and write them in the order of the split."""
        parts = [self.rows]
        if dist.is_available() and dist.is_initialized():
            parts = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(parts, self.rows)
        if trainer.is_global_zero:
            self._write({place: row for part in parts for place, row in part.items()})

    def _write(self, rows: dict[int, Row]) -> None:
        paths = getattr(self.loader.image_set, "paths", None)
        labelled = getattr(self.loader.image_set, "labelled", True)
        outputs = len(next(iter(rows.values()))[1]) if rows else 0
        scores = [f"logit_{k}" for k in range(outputs)] if outputs > 1 else []
        with written(self.path, "--output") as part, part.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["index" if paths is None else "file", "target", "predicted", *scores])
            for place, (target, logits) in sorted(rows.items()):
                name = place if paths is None else _no_formula(str(paths[place]))
                predicted = logits[0] if outputs == 1 else int(torch.tensor(logits).argmax())
                table.writerow([name, target if labelled else "", predicted, *(logits if scores else [])])


def _no_formula(name: str) -> str:
    """The name, with a leading quote if a spreadsheet would read it as a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
