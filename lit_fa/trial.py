"""One trial of a sweep: an ordinary `lit-fa fit` whose study hears the metric while it trains and may end it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import optuna

from callbacks.curves import Point, Recorder
from callbacks.run_record import RunRecord
from lit_fa.errors import RanksNeeded, UserError, nearest
from lit_fa.experiment import run
from lit_fa.lightning_privates import callbacks_of
from lit_fa.spec.sweep import Halving
from lit_fa.sweeps.journal import storage


def fit_trial(config: dict[str, Any], record: dict[str, Any]) -> None:
    """Train a trial and leave its record; nothing is tested, unless the sweep is for a number of the test.

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
            wandb.finish()  # the next trial in this process is a run of its own


def pruner(halving: Halving | None) -> optuna.pruners.BasePruner:
    """W&B's hyperband has one bracket, which is successive halving."""
    if halving is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=halving.first, reduction_factor=halving.factor)


class ReportToStudy(Recorder):
    """Hands every value of the sweep's metric to the study, and stops training when its pruner says so.

    The k-th value of the metric is step k, as W&B counts. One process a trial: ranks are not told of a stop. Optuna's
    own callback for Lightning hears validation only, ends by an exception instead of a record, and counts epochs.

    Args:
        trial: in its study.
        metric: that the sweep is for.
        parameters: of the trial, for the loggers.
    """

    called = "the sweep"  # what data with validation on the test set say that chooses by `monitor`

    def __init__(self, trial: optuna.trial.Trial, metric: str, parameters: dict[str, Any]):
        """See the class."""
        super().__init__()
        self.monitor = metric
        self.trial, self.metric, self.parameters = trial, metric, parameters

    @property
    def of_test(self) -> bool:
        """The metric is one of the test."""
        return self.metric.startswith("test/")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell the loggers what the sweep has chosen."""
        for logger in trainer.loggers:
            logger.log_hyperparams(self.parameters)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Report the metric, if a measuring callback publishes it."""
        known = len(self._points)
        super().log_metrics(metrics, step)
        if len(self._points) > known:
            self._report()

    def collect(self, trainer: L.Trainer, *, validation: bool) -> None:
        """Take this moment's metrics; a new value of the sweep's own is when training may stop."""
        known = len(self._points)
        super().collect(trainer, validation=validation)
        if len(self._points) > known:
            self._report()
            if self.trial.should_prune():
                self._stop(trainer)
        elif validation:
            self._check_name(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """By now the metric has been logged, or never will be."""
        if not self.of_test and self.metric not in trainer.callback_metrics and not self._points:
            raise UserError(self._unknown([*trainer.callback_metrics]))

    @property
    def _points(self) -> list[Point]:
        return self.curves.points.get(self.metric, [])

    def _report(self) -> None:
        self.trial.report(self._points[-1][2], step=len(self._points))

    def _check_name(self, trainer: L.Trainer) -> None:
        """Do not train to the end for a metric that validation would have logged by now."""
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
