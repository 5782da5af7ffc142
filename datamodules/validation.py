"""Validation on the test set: reported at the start of a run; choosing by such a metric is refused unless allowed."""

import logging
from typing import Protocol

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lit_fa.datamodules.errors import DataError

log = logging.getLogger("lit_fa.data")
CHOICES = ("refuse", "allow")


class Validated(Protocol):
    """The attributes of a data module that this file reads.

    Attributes:
        trainer: the trainer of the data module, or None.
        validation_is_test: whether validation metrics are computed on the test set.
        choose_by_test: `refuse` or `allow`.
    """

    trainer: L.Trainer | None
    choose_by_test: str

    @property
    def validation_is_test(self) -> bool:
        """Whether validation metrics are computed on the test set."""


def refuse_choices(data: Validated) -> None:
    """Refuse a fit in which something is chosen by a validation metric that is computed on the test set.

    Raises:
        DataError: early stopping, a checkpoint, a plateau schedule or a sweep monitors `val/...`; names the remedy.
    """
    trainer = data.trainer
    if trainer is None or trainer.state.fn != TrainerFn.FITTING or not data.validation_is_test:
        return
    if data.choose_by_test == "allow":
        return
    for who, metric in chosen_by(trainer):
        if metric.startswith("val/"):
            raise DataError(
                f"{who} chooses by {metric}, and validation is on the test set: hold training images out with "
                "val_size of the data, or set its validation_is_test: allow"
            )


def announce(data: Validated) -> None:
    """Log one line if a run validates on the test set; the caller calls this once."""
    trainer = data.trainer
    if trainer is None or not trainer.is_global_zero or not data.validation_is_test:
        return
    if trainer.state.fn in (TrainerFn.FITTING, TrainerFn.VALIDATING):
        name = type(data).__name__
        log.warning("validation is on the test set: %s has val_size 0, so every val/ metric is a test metric", name)


def chosen_by(trainer: L.Trainer) -> list[tuple[str, str]]:
    """(name, metric) of every callback that monitors a metric and of every plateau schedule."""
    monitored = [
        (getattr(callback, "called", type(callback).__name__), callback.monitor)
        for callback in getattr(trainer, "callbacks", [])
        if isinstance(getattr(callback, "monitor", None), str)
    ]
    for config in trainer.lr_scheduler_configs:
        plateau = isinstance(config.scheduler, ReduceLROnPlateau)
        metric = getattr(config.scheduler, "monitor", None) or config.monitor
        if plateau and metric is None and trainer.limit_val_batches:  # torch's plateau schedule receives the loss
            metric = getattr(trainer.lightning_module, "monitored", None) or "val/loss"
        if metric is not None and (plateau or config.reduce_on_plateau):
            monitored.append((type(config.scheduler).__name__, metric))
    return monitored
