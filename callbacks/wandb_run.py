"""Content of a W&B or Trackio run besides curves: histograms, figures, final metrics and the version of the code.

It also stores the rows of these loggers in checkpoints. The command line adds it if one of them is the logger.
"""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_fa.callbacks.continued_logs import ContinuedLogs
from lit_fa.callbacks.environment import hardware, versions
from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.probe import learner_of
from lit_fa.callbacks.rows import AXIS, Row, RowLogger
from lit_fa.layers import WEIGHT_LAYERS
from lit_fa.lightning_privates import callbacks_of
from lit_fa.provenance import our_code
from lit_fa.stopping import exit_code

BINS = 64


class WandbRun(ContinuedLogs):
    """Stores the rows of a W&B or Trackio run in checkpoints; logs `weights/<layer>`, `figures/<name>` and `final`.

    Args:
        histograms: approximate number of histograms of each layer's weight in a run, the first before the first step;
            0: none.

    Raises:
        MeasurementError: a negative number.
    """

    def __init__(self, histograms: int = 20):
        """See the class."""
        if histograms < 0:
            raise MeasurementError(f"histograms is their number in a run, or 0 for none, not {histograms}")
        self.histograms = histograms

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the versions of code and packages, and the machine."""
        code = {"commit": our_code().commit, "dirty": our_code().dirty}
        for logger in _loggers(trainer):
            logger.log_hyperparams(code | {"versions": versions(), "hardware": hardware()})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log histograms of the initial weights."""
        if trainer.global_step == 0:
            self._log_weights(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log histograms of the weights, `histograms` times in a run."""
        every = max(1, (trainer.max_epochs or 0) // max(1, self.histograms))
        if (trainer.current_epoch + 1) % every == 0:
            self._log_weights(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the figures in the run's folder and of other callbacks, and the final metrics."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # a collective operation: all ranks must read it
        drawn = {*folder.rglob("*.png"), *(path for c in callbacks_of(trainer) for path in getattr(c, "drawn", []))}
        pictures = {f"figures/{path.stem}": {"image": str(path)} for path in sorted(drawn)}
        for logger in _loggers(trainer):
            logger.add(pictures | _final(trainer))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the final metrics, including those of the test."""
        for logger in _loggers(trainer):
            logger.add(_final(trainer))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Set the exit code: an interrupted run is not a failed one."""
        for logger in _loggers(trainer):
            logger.exit_code = exit_code(exception) if isinstance(exception, KeyboardInterrupt) else 1

    def _log_weights(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        loggers = _loggers(trainer) if trainer.is_global_zero and self.histograms else []
        modules = learner_of(module).network.named_modules() if loggers else ()
        layers = {n: m for n, m in modules if isinstance(m, WEIGHT_LAYERS)}
        row = {f"weights/{n}": histogram(m.weight) for n, m in layers.items() if m.weight.isfinite().all()}
        for logger in loggers:
            logger.add(row | {AXIS: trainer.global_step})


@torch.no_grad()
def histogram(values: Tensor) -> Row:
    """Counts in bins of equal width, and the edges of the bins."""
    values = values.float().flatten()
    low, high = values.min().item(), values.max().item()
    counts = torch.histc(values, BINS, low, high)
    return {"histogram": counts.tolist(), "edges": torch.linspace(low, high, BINS + 1).tolist()}


def _loggers(trainer: L.Trainer) -> list[Any]:
    return [logger for logger in trainer.loggers if isinstance(logger, RowLogger)]


def _final(trainer: L.Trainer) -> Row:
    last = sorted((key, value.item()) for key, value in trainer.callback_metrics.items())
    return {"final": {"columns": ["metric", "value"], "data": [[*pair] for pair in last]}} if last else {}
