"""Progress as lines, for a log or a pipe, in which a bar cannot be drawn."""

import math
import time
from typing import Literal

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor

PERCENT = ("accuracy", "f1", "matthews", "top5", "pearson", "spearman")  # metrics of held-out data, in percent
LINES = 10  # of a run
_SILENCE = 60.0  # seconds without a line, at most


class LineProgress(ProgressBar):
    """Prints about ten lines per run: epochs (or federated rounds) done, metrics, seconds.

    In a long epoch a line is printed every minute.

    Args:
        unit: what is counted; a round is a batch.
        title: the beginning of every line.
    """

    def __init__(self, unit: Literal["epoch", "round"] = "epoch", title: str = ""):
        """See the class."""
        super().__init__()
        self.unit, self.title, self.shown = unit, f"{title} " if title else "", True
        self.begun = self.last = 0.0
        self.done = -1

    def disable(self) -> None:
        """Print nothing; called on all ranks but the first."""
        self.shown = False

    def enable(self) -> None:
        """Print lines."""
        self.shown = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.begun = self.last = time.monotonic()
        self.done = self._count(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Print a line after a round that is due, or after a minute without one."""
        if self.unit == "round":
            self._print_if_due(trainer)
        elif time.monotonic() - self.last > _SILENCE:
            self._line(trainer, f", step {trainer.global_step}")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print a line for the epoch before; its metrics are complete only now."""
        if self.unit == "epoch":
            self._print_if_due(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print a line for the last epoch."""
        if self._count(trainer) != self.done:
            self._line(trainer)

    def print(self, *args: object, **_: object) -> None:
        """Print a line of the module."""
        if self.shown:
            print(*args, flush=True)

    def _print_if_due(self, trainer: L.Trainer) -> None:
        count, total = self._count(trainer), self._total(trainer)
        if count == self.done or count == total:  # the last one is printed when training has ended
            return
        every = math.ceil(total / LINES) if total else math.inf
        if count % every == 0 or time.monotonic() - self.last > _SILENCE:
            self._line(trainer)

    def _line(self, trainer: L.Trainer, note: str = "") -> None:
        self.last, self.done = time.monotonic(), self._count(trainer)
        total = self._total(trainer)
        count = f"{self.title}{self.unit} {self.done}{f'/{total}' if total else ''}{note}"
        metrics = metrics_in_words(trainer.callback_metrics, ("train/loss", "val/"))
        if self.shown:
            print(f"{count}: {metrics}{', ' if metrics else ''}{self.last - self.begun:.1f} s", flush=True)

    def _count(self, trainer: L.Trainer) -> int:
        return trainer.current_epoch if self.unit == "epoch" else trainer.global_step

    def _total(self, trainer: L.Trainer) -> int:
        """Epochs or rounds of the run; 0 if their number is not known before its end."""
        if self.unit == "epoch":
            return max(trainer.max_epochs or 0, 0)
        rounds = trainer.estimated_stepping_batches
        return int(rounds) if math.isfinite(rounds) else 0


def metrics_in_words(metrics: dict[str, Tensor], beginnings: tuple[str, ...], most: int = 4) -> str:
    """`train/loss 0.4123, val/accuracy 88.06 %`: the metrics whose names begin so, four significant digits each.

    Args:
        metrics: by name, as `trainer.callback_metrics`.
        beginnings: in the order in which they are shown.
        most: metrics that are shown.

    >>> metrics_in_words({"val/loss": 0.123456, "val/accuracy": 97.5, "lr": 1.0}, ("val/",))
    'val/accuracy 97.5 %, val/loss 0.1235'
    """
    names = [name for name in metrics if not name.endswith("_step") and f"{name}_epoch" not in metrics]
    chosen = [
        name
        for beginning in beginnings
        for name in sorted(names, key=lambda name: (_kind(name) not in PERCENT, name))
        if name.startswith(beginning)
    ]
    unit = {name: " %" if _kind(name) in PERCENT else "" for name in chosen}
    return ", ".join(f"{name.removesuffix('_epoch')} {float(metrics[name]):.4g}{unit[name]}" for name in chosen[:most])


def _kind(name: str) -> str:
    return name.rpartition("/")[2]
