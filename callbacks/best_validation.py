"""The weights that were best on held-out data: stored during training, and tested in addition to the final ones."""

import math
import tempfile
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.apply_func import apply_to_collection

from lit_fa.callbacks.errors import MeasurementError
from lit_fa.lightning_privates import callbacks_of

NEEDED = ("state_dict", "constructor", "adapters", "prepared")  # of a checkpoint, for a module that is only tested


class BestValidation(L.Callback):
    """Stores a copy of the module at its best validation, in memory and in every checkpoint.

    `lit_fa.run`, which also runs the cells of tables, tests these weights as well as the final ones. The record has
    their metrics as `best_validation/test/...`, which a table reads by `at: best_validation`. The first of equal values
    is used; values that are not finite are ignored. Data without held-out samples are refused, as for EarlyStopping.

    Args:
        monitor: metric of validation.
        mode: max or min; None: min for a loss, otherwise max.

    Raises:
        MeasurementError: the monitored metric is not logged, or validation is of averaged weights.
    """

    def __init__(self, monitor: str = "val/accuracy", mode: Literal["max", "min"] | None = None):
        """See the class."""
        super().__init__()
        if mode not in (None, "max", "min"):
            raise MeasurementError(f"mode is max or min, not {mode!r}")
        self.monitor, self.mode = monitor, mode or ("min" if monitor.endswith("loss") else "max")
        self.value: float | None = None  # best value of the monitored metric
        self.best: dict[str, Any] = {}  # the module's entries of a checkpoint at that validation

    @property
    def state_key(self) -> str:
        """The name of the state in a checkpoint."""
        return f"BestValidation{{monitor={self.monitor}, mode={self.mode}}}"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse averaged weights: these are validated, but the module has other weights.

        Raises:
            MeasurementError: the trainer averages weights.
        """
        if any(isinstance(callback, WeightAveraging) for callback in callbacks_of(trainer)):
            raise MeasurementError("BestValidation keeps weights that are not averaged: leave WeightAveraging out")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Store the module if this validation is better than all before it.

        Raises:
            MeasurementError: the validation does not log the monitored metric.
        """
        measured = getattr(pl_module, "validates", True)  # not all federated rounds are validated
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not measured:
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise MeasurementError(f"BestValidation: '{self.monitor}' is not logged; validation logs {known}")
        value = float(trainer.callback_metrics[self.monitor])
        if math.isfinite(value) and self._is_better(value):
            self.value, self.best = value, _state(pl_module)

    def tested(self, trainer: L.Trainer, data: L.LightningDataModule) -> dict[str, float]:
        """The test metrics of the best weights, `best_validation/<metric>` to value; {} without any validation.

        They are loaded into a new module, which is tested without callbacks and loggers.

        Args:
            trainer: after its fit.
            data: of the fit.
        """
        if not self.best or trainer.lightning_module is None:
            return {}
        module = _module(type(trainer.lightning_module), self.best)
        callbacks, loggers = callbacks_of(trainer), trainer.loggers
        trainer.callbacks, trainer.loggers = [], []  # type: ignore[attr-defined]
        try:
            trainer.test(module, data, verbose=False)
            measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        finally:
            trainer.callbacks, trainer.loggers = callbacks, loggers  # type: ignore[attr-defined]
        return {f"best_validation/{name}": value for name, value in measured.items()}

    def state_dict(self) -> dict[str, Any]:
        """The best value and its weights."""
        return {"value": self.value, "kept": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.value, self.best = state["value"], state["kept"]

    def _is_better(self, value: float) -> bool:
        if self.value is None:
            return True
        return value > self.value if self.mode == "max" else value < self.value


def _state(module: L.LightningModule) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    needed = {name: checkpoint[name] for name in NEEDED if name in checkpoint}
    return apply_to_collection(needed, torch.Tensor, lambda tensor: tensor.detach().cpu().clone())


def _module(kind: type[L.LightningModule], checkpoint: dict[str, Any]) -> L.LightningModule:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.ckpt"
        torch.save(checkpoint, path)
        return kind.load_from_checkpoint(path, map_location="cpu")
