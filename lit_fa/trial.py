"""One trial of a sweep: a `lit-fa fit` that reports its metric to the study during training and may be pruned."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import optuna

from lit_fa.callbacks.curves import Point, Recorder
from lit_fa.callbacks.run_record import RunRecord
from lit_fa.errors import RanksNeeded, UserError, nearest
from lit_fa.experiment import run
from lit_fa.lightning_privates import callbacks_of
from lit_fa.spec.sweep import Halving
from lit_fa.sweeps.journal import storage


def fit_trial(config: dict[str, Any], record: dict[str, Any]) -> None:
    """Train a trial and write its record; it is tested only if the metric of the sweep is a test metric.

    Args:
        config: of `lit_fa.sweeps.study.Trial`: words of the command line; the study, and the trial's number in it.
        record: fields of the record, and its `path`.
    """
    study = optuna.load_study(
        study_name=config["study"],
        storage=storage(Path(config["folder"])),
        sampler=optuna.samplers.RandomSampler(),  # nothing is drawn here
        pruner=pruner(config["halving"]),
    )
    trial = optuna.trial.Trial(study, study.trials[config["trial"]]._trial_id)
    report = ReportToStudy(trial, config["metric"], record["parameters"])
    try:
        run(config["words"], record, observers=[report], test=report.of_test)
    except RanksNeeded:
        raise UserError("trainer.devices: a trial of a sweep is one process; set devices 1") from None
    finally:
        if wandb := sys.modules.get("wandb"):
            wandb.finish()  # the next trial in this process is another run


def pruner(halving: Halving | None) -> optuna.pruners.BasePruner:
    """W&B's hyperband has one bracket, which is successive halving."""
    if halving is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=halving.first, reduction_factor=halving.factor)


class ReportToStudy(Recorder):
    """Reports every value of the sweep's metric to the study, and stops training if its pruner decides so.

    The k-th value of the metric is step k, as in W&B. A trial is one process, because other ranks would not stop.
    Optuna's own callback for Lightning reports only validation metrics, counts epochs, and ends by an exception, so
    that there would be no record.

    Args:
        trial: in its study.
        metric: of the sweep.
        parameters: of the trial, for the loggers.
    """

    called = "the sweep"  # named in the error of data that validate on the test set

    def __init__(self, trial: optuna.trial.Trial, metric: str, parameters: dict[str, Any]):
        """See the class."""
        super().__init__()
        self.monitor = metric
        self.trial, self.metric, self.parameters = trial, metric, parameters

    @property
    def of_test(self) -> bool:
        """Whether the metric is a test metric."""
        return self.metric.startswith("test/")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the parameters of the trial."""
        for logger in trainer.loggers:
            logger.log_hyperparams(self.parameters)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Report the metric if a measuring callback publishes it."""
        known = len(self._points)
        super().log_metrics(metrics, step)
        if len(self._points) > known:
            self._report()

    def collect(self, trainer: L.Trainer, *, validation: bool) -> None:
        """Add the current metrics to the curves; report a new value of the sweep's metric, and stop if pruned."""
        known = len(self._points)
        super().collect(trainer, validation=validation)
        if len(self._points) > known:
            self._report()
            if self.trial.should_prune():
                self._stop(trainer)
        elif validation:
            self._check_name(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a metric that was never logged."""
        if not self.of_test and self.metric not in trainer.callback_metrics and not self._points:
            raise UserError(self._unknown([*trainer.callback_metrics]))

    @property
    def _points(self) -> list[Point]:
        return self.curves.points.get(self.metric, [])

    def _report(self) -> None:
        self.trial.report(self._points[-1][2], step=len(self._points))

    def _check_name(self, trainer: L.Trainer) -> None:
        """Refuse a validation metric that the first validation does not log, without training to the end."""
        logged = [name for name in trainer.callback_metrics if name.startswith("val/")]
        if logged and self.metric.startswith("val/") and self.metric not in logged:
            raise UserError(self._unknown(logged))

    def _unknown(self, logged: list[str]) -> str:
        return f"the sweep's metric '{self.metric}' is not logged; {nearest(self.metric, logged)}"

    def _stop(self, trainer: L.Trainer) -> None:
        trainer.should_stop = True
        for callback in callbacks_of(trainer):
            if isinstance(callback, RunRecord):
                callback.record["stopped_early"] = True
