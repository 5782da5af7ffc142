"""Curves of metrics during training, and `publish`, which passes a measurement to loggers and monitors."""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lit_fa.callbacks.errors import MeasurementError
from lit_fa.lightning_privates import batches_processed, epoch_is_ending, in_epoch

Point = tuple[int, float, float]
LAST = 10  # points at the end of a curve that are never thinned


class Curves:
    """From key to points (optimiser step, epochs done, value) in order of time, at most one per step."""

    def __init__(self, points: dict[str, list[Point]] | None = None):
        """Start from `points`, or empty."""
        self.points = {k: [(p[0], p[1], p[2]) for p in curve] for k, curve in (points or {}).items()}

    def add(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Append a value to each curve; a second value at the same step replaces the first."""
        for key, value in values.items():
            curve = self.points.setdefault(key, [])
            if curve and curve[-1][0] == step:
                curve.pop()
            curve.append((step, epoch, float(value)))

    def last(self) -> dict[str, float]:
        """The newest value of each curve."""
        return {key: curve[-1][2] for key, curve in self.points.items()}

    def last_finite(self) -> dict[str, float]:
        """The newest finite value of each curve; curves without one are left out."""
        finite = {key: [v for *_, v in curve if math.isfinite(v)] for key, curve in self.points.items()}
        return {key: values[-1] for key, values in finite.items() if values}

    def thinned(self, most: int = 60) -> dict[str, list[Point]]:
        """At most `most` points of each curve: the last ten, whose mean papers report, and others evenly spaced.

        >>> curves = Curves({"loss": [(k, 0.0, float(k)) for k in range(100)]})
        >>> [step for step, _, _ in curves.thinned(13)["loss"]]
        [0, 44, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99]
        """
        return {key: _spread(curve[:-LAST], most - LAST) + curve[-LAST:] for key, curve in self.points.items()}


class Recorder(Logger, L.Callback):
    """A logger that stores curves, and a callback that adds the epoch metrics of the module to them.

    As a logger it receives the measurements of callbacks by `log_metrics` (see `publish`); during training the callback
    adds it to the trainer's loggers. Loggers receive the module's own metrics only after the hooks in which checkpoints
    are saved, so a resumed run would not have them. Therefore they are read from `callback_metrics` in these hooks:
    `val/` after validation, all others at the end of the epoch. There are no curves of `test/`, nor of `match/` and
    `select/`, which are measured before a step.
    """

    name = version = ""  # with these and `save_dir` the folders are the same as without this logger

    def __init__(self) -> None:
        """Start with empty curves."""
        super().__init__()
        self.curves = Curves()
        self.published: set[str] = set()
        self.trainer: L.Trainer | None = None  # during training

    @property
    def save_dir(self) -> str | None:
        """The trainer's root folder, as without a logger."""
        return None if self.trainer is None else self.trainer.default_root_dir

    def log_hyperparams(self, *_: object) -> None:
        """Do nothing, because a record has the whole config."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the measurements of a callback; rows with `epoch`, which are the module's own metrics, are ignored.

        Raises:
            MeasurementError: this object is a logger of the trainer but not one of its callbacks.
        """
        if self.trainer is None:
            raise MeasurementError(f"{type(self).__name__} belongs under trainer.callbacks, not trainer.logger")
        if "epoch" not in metrics:
            self.published |= metrics.keys()
            self.curves.add(self.trainer.global_step if step is None else step, epochs_done(self.trainer), metrics)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add this object to the loggers."""
        self.trainer = trainer
        if self not in trainer.loggers:
            trainer.loggers.append(self)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove this object from the loggers."""
        self._leave()

    def collect(self, trainer: L.Trainer, *, validation: bool) -> None:
        """Add the current epoch metrics: those of validation, or all others."""
        epoch = epochs_done(trainer) if validation else float(trainer.current_epoch)
        self.curves.add(trainer.global_step, epoch, self._logged(trainer, validation=validation))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect `val/`, unless this is a federated round that is not validated and has old metrics."""
        measured = getattr(pl_module, "validates", True)
        if trainer.state.fn == TrainerFn.FITTING and measured and not trainer.sanity_checking:
            self.collect(trainer, validation=True)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the metrics of the previous epoch, which the module logs after the callbacks' hook for its end."""
        if trainer.current_epoch > 0:
            self.collect(trainer, validation=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the metrics of the last epoch."""
        self.collect(trainer, validation=False)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove this object from the loggers, before a test."""
        self._leave()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """At the end of an epoch, add its metrics to the curves of the checkpoint."""
        if epoch_is_ending(trainer) and self.state_key in checkpoint.get("callbacks", {}):
            ended = Curves(self.curves.points)
            ended.add(trainer.global_step, epochs_done(trainer), self._logged(trainer, validation=False))
            checkpoint["callbacks"][self.state_key]["curves"] = ended.points

    def state_dict(self) -> dict[str, Any]:
        """The curves, with which a resumed run continues."""
        return {"curves": self.curves.points, "published": sorted(self.published)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the curves."""
        self.curves, self.published = Curves(state["curves"]), set(state["published"])

    def _leave(self) -> None:
        if self.trainer is not None and self in self.trainer.loggers:
            self.trainer.loggers.remove(self)
        self.trainer = None

    def _logged(self, trainer: L.Trainer, *, validation: bool) -> dict[str, float]:
        logged = trainer.callback_metrics
        return {
            key: value.item() if isinstance(value, Tensor) else value
            for key, value in logged.items()
            if key.startswith("val/") == validation
            and not key.startswith(("test/", "match/", "select/"))
            and key not in self.published
            and f"{key}_epoch" not in logged  # the value of a single step; its mean is logged as well
        }


def publish(trainer: L.Trainer, module: L.LightningModule, values: dict[str, float], *, monitored: bool) -> None:
    """Log measured values with all loggers, including records, at the current optimiser step.

    Args:
        trainer: during a fit.
        module: logs the values as well if `monitored`.
        values: key to float.
        monitored: make the values available to ModelCheckpoint and EarlyStopping; only at the end of an epoch.
    """
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)
    if monitored:
        module.log_dict(values, logger=False, rank_zero_only=True)


def epochs_done(trainer: L.Trainer) -> float:
    """Epochs trained so far, with the fraction of the current one."""
    batches = trainer.num_training_batches
    known = in_epoch(trainer) and batches and math.isfinite(batches)
    part = batches_processed(trainer) / batches if known else 0.0
    return round(trainer.current_epoch + part, 4)


def _spread(curve: list[Point], most: int) -> list[Point]:
    if len(curve) <= most:
        return list(curve)
    return [curve[round(k * (len(curve) - 1) / (most - 1))] for k in range(most)]
