"""Learning-rate schedules under manual optimisation, in which Lightning does not step them."""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lit_fa.errors import UserError, nearest
from lit_fa.lightning_privates import trainer_of
from lit_fa.modules.evaluated import EvaluatedClassifier
from lit_fa.modules.length import run_length
from lit_fa.modules.rates import check_groups, check_rates, check_schedule, constructed
from lit_fa.rules.base import Batch

PLATEAU = "lightning.pytorch.cli.ReduceLROnPlateau"


class ScheduledClassifier(EvaluatedClassifier):
    """Steps the schedule of its optimiser after every step or epoch, and a plateau when its metric has a new value.

    Lightning's `ReduceLROnPlateau` names its metric (`monitor`). Torch's own gets `val/loss`, or the training loss in a
    run without validation, so only `mode: min` is accepted. A value is used once: with interval `epoch` the last one
    at the end of an epoch, with `step` each when it is logged. On several ranks it is the mean over ranks.

    Subclasses set `make_scheduler`, and `scheduler_interval` to `step` or `epoch`.
    """

    make_scheduler: LRSchedulerCallable | None = None
    scheduler_interval: str = "step"
    accumulate: int = 1
    training_loss: str = "train/loss"
    monitored: str | None = None  # metric of a plateau; None: there is no plateau
    _arrived: bool = False  # whether a value is logged that the plateau has not received
    _pending: float | None = None  # that value, if it comes from a checkpoint
    epochs_ended: int | None = None  # number of epochs whose end this module has completed; None: not known
    _stepped: bool = False  # whether the plateau has received any value

    def setup(self, stage: str) -> None:
        """A fit starts without a value; a checkpoint that is loaded later may have one."""
        if stage == "fit":
            self._arrived, self._pending, self._stepped = False, None, False
            self.epochs_ended = 0

    def scheduled(self, optimizer: Optimizer) -> OptimizerLRScheduler:
        """What `configure_optimizers` returns.

        Raises:
            UserError: no schedule, options out of range, or torch's plateau with `mode: max`.
        """
        self.monitored = None
        check_groups(optimizer)
        if self.make_scheduler is None:
            return optimizer
        scheduler = constructed(self.make_scheduler, optimizer, "scheduler")
        if not (hasattr(scheduler, "step") and hasattr(scheduler, "state_dict")):
            raise UserError(
                f"scheduler makes a {type(scheduler).__name__} instead of one schedule of torch: when it moves is "
                f"scheduler_interval, and the metric that it monitors is the monitor of {PLATEAU}"
            )
        check_groups(optimizer, scheduler)
        check_schedule(scheduler)
        if isinstance(scheduler, ReduceLROnPlateau):
            self.monitored = getattr(scheduler, "monitor", None) or "val/loss"
            if scheduler.mode == "max" and not hasattr(scheduler, "monitor"):
                raise UserError(
                    "torch's ReduceLROnPlateau is given val/loss, which mode: max would raise: take "
                    f"{PLATEAU} with monitor: val/accuracy, or mode: min"
                )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.scheduler_interval}}

    def schedule(self, when: str) -> None:
        """Step the schedules with interval `when` (`step` or `epoch`); also that of weight averaging."""
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == when and not isinstance(config.scheduler, ReduceLROnPlateau):
                config.scheduler.step()
                for optimizer in self.trainer.optimizers:
                    check_rates(optimizer, config.scheduler)
        if when == "epoch":
            self._check_monitored()
            self._feed()
            self.epochs_ended = self.trainer.current_epoch + 1

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        """As in Lightning; notes that the metric of the plateau has a new value."""
        super().log(name, *args, **kwargs)
        if name == self.monitored and not self.trainer.sanity_checking:
            self._arrived, self._pending = True, None

    def on_train_start(self) -> None:
        """Refuse a plateau on a validation metric in a run without validation."""
        validated = self.trainer.enable_validation and not self._validates_too_late()
        if self.monitored is None or not self.monitored.startswith("val/") or validated:
            return
        if not hasattr(self._plateau(), "monitor"):
            self.monitored = self.training_loss
            return
        raise UserError(
            f"scheduler: monitor '{self.monitored}' is measured in validation, which this run has none of: monitor "
            f"{self.training_loss}, or set trainer.limit_val_batches and trainer.check_val_every_n_epoch"
        )

    def on_validation_end(self) -> None:
        """Step a plateau if its metric has a new value."""
        if self.trainer.sanity_checking or self.trainer.state.fn != "fit":
            return
        if self.monitored is not None and self.monitored.startswith("val/") and self._validated():
            self._refuse_unknown()
        if self.scheduler_interval == "step":
            self._feed()

    def on_train_epoch_start(self) -> None:
        """Restore a resumed run before the loader of the epoch draws random numbers."""
        self.restore()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Restore a run that resumes within an epoch, for which Lightning calls no `on_train_epoch_start`."""
        super().on_train_batch_start(batch, batch_idx)
        self.restore()

    def on_train_batch_end(self, *_: object) -> None:
        """Step a plateau if its training metric has a new value."""
        if self.scheduler_interval == "step":
            self._feed()

    def on_train_end(self) -> None:
        """Warn if a plateau has never received a value."""
        if self._plateau() is not None and not self._stepped:
            rank_zero_warn(f"the learning rate never moved: no value of {self.monitored} came before the run's end")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store a value that the plateau has not received yet, and the number of ended epochs."""
        super().on_save_checkpoint(checkpoint)
        value = self._value() if self._arrived else None
        checkpoint["epochs_ended"] = self.epochs_ended or 0
        checkpoint["plateau"] = {"value": None if value is None else float(value), "stepped": self._stepped}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load them."""
        super().on_load_checkpoint(checkpoint)
        plateau = checkpoint.get("plateau") or {"value": None, "stepped": False}
        if (trainer := trainer_of(self)) and trainer.state.fn == "fit":
            self._arrived, self._pending, self._stepped = (
                plateau["value"] is not None,
                plateau["value"],
                plateau["stepped"],
            )
            self.epochs_ended = checkpoint.get("epochs_ended")

    def restore(self) -> None:
        """At the start of a resumed run, give a plateau the value that was pending in the checkpoint."""
        if self.scheduler_interval == "step":
            self._feed()

    def _plateau(self) -> ReduceLROnPlateau | None:
        """The plateau, unless weight averaging has replaced it by its own schedule."""
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        return next((s for s in schedulers if isinstance(s, ReduceLROnPlateau)), None)

    def _validates_too_late(self) -> bool:
        _, epochs = run_length(self.trainer, self.accumulate)
        every = self.trainer.check_val_every_n_epoch
        return every is not None and epochs is not None and every > epochs

    def _validated(self) -> bool:
        return any(name.startswith("val/") for name in self.trainer.callback_metrics)

    def _value(self) -> Tensor | float | None:
        return self.trainer.callback_metrics.get(self.monitored or "") if self._pending is None else self._pending

    def _feed(self) -> None:
        plateau = self._plateau()
        value = self._value()
        if plateau is None or not self._arrived or value is None:
            return
        if self.trainer.world_size > 1:
            own = torch.as_tensor(float(value), device=self.device)
            value = self.trainer.strategy.reduce(own, reduce_op="mean")
        plateau.step(float(value))
        self._arrived, self._pending, self._stepped = False, None, True

    def _check_monitored(self) -> None:
        """Refuse a metric that nothing logs: at the end of an epoch, after validation, all are logged once."""
        every_n_steps = self.monitored == "train/loss"  # logged less than once an epoch in short epochs
        if self._plateau() is None or self._arrived or self._stepped or every_n_steps:
            return
        if self._validated() or not self.trainer.enable_validation:
            self._refuse_unknown()

    def _refuse_unknown(self) -> None:
        known = [*self.trainer.callback_metrics]
        if self._plateau() is not None and self.monitored not in known and not self._arrived:
            raise UserError(
                f"scheduler: nothing logs '{self.monitored}'; {nearest(str(self.monitored), known)}; set "
                "scheduler.init_args.monitor to a metric of this run"
            )
