"""Lightning's training loops, changed so that a resumed run first completes the iteration of its checkpoint.

A checkpoint can be written at four points around the end of an epoch:

* after a batch (`every_n_train_steps`, `train_time_interval`): validation may still be due, and after the last batch
  the end of the epoch;
* after validation: only the end of the epoch may still be due;
* at the end of an epoch: the next epoch or the end of training follows. A callback that is no `Checkpoint` may write it
  before the module's own end of the epoch;
* at the start of an epoch.

Lightning resumes from the first point with the next batch and skips validation and the end of the epoch. Under
`max_steps` it repeats the end of an epoch that had already ended.
"""

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from lit_fa import lightning_privates as privates
from lit_fa.lightning_privates import DataFetcher, PlainEpochLoop, PlainFitLoop, Progress

VALIDATION, ITERATION_END, EPOCH_END = "validation", "iteration end", "epoch end"  # what is done first after resuming


class EpochLoop(PlainEpochLoop):
    """Starts a resumed epoch with the rest of the iteration in which the checkpoint was written."""

    rest: str | None = None  # what is left of that iteration; None: nothing, the next batch follows
    joint: Callable[[DataFetcher], None] | None = None  # takes steps that nothing observes (`lit_fa.packs`)

    def settle(self) -> None:
        """Determine what is left of the iteration, and count its batch as completed."""
        batch: Any = self.batch_progress
        if batch.current.processed < batch.current.ready:  # an exception interrupted the batch, which is repeated
            for counts in (batch.current, batch.total):
                counts.ready = counts.started = counts.processed = counts.completed
        elif batch.current.completed < batch.current.processed:
            batch.increment_completed()
            self.rest = VALIDATION
        elif privates.iteration_ends_epoch_or_validates(self):
            self.rest = ITERATION_END if _whole(self.val_loop.batch_progress) else VALIDATION

    @property
    def done(self) -> bool:
        """Whether the epoch has ended; never before the interrupted iteration is completed."""
        return self.rest is None and super().done

    def advance(self, data_fetcher: DataFetcher) -> None:
        """Run the next batch, or only what is left of the iteration."""
        self.restarting = False  # otherwise Lightning would override what `settle` has determined
        rest, self.rest = self.rest, None
        if rest is None:
            if self.joint is not None:
                self.joint(data_fetcher)
            super().advance(data_fetcher)
            return
        _module(self.trainer).restore()
        privates.skip_validation(self, rest != VALIDATION)
        if rest == EPOCH_END:
            privates.uncount_logged_batch(self)


class FitLoop(PlainFitLoop):
    """Resumes at the point at which the checkpoint was written."""

    epoch_loop: EpochLoop

    @property
    def skip(self) -> bool:
        """Whether there is nothing to do; never if a resumed run has to complete an epoch or the end of training."""
        if not privates.was_loaded(self) or _finished(self.epoch_progress):
            return super().skip
        return self.max_batches == 0 or self.trainer.limit_train_batches == 0

    @property
    def done(self) -> bool:
        """Whether training has ended; never within an interrupted iteration."""
        return self.epoch_loop.rest is None and super().done

    def run(self) -> None:
        """Start with the metrics of the checkpoint, which callbacks and records read."""
        if privates.was_loaded(self):
            self.trainer.callback_metrics.update(_module(self.trainer).measured)
        super().run()

    def reset(self) -> None:
        """In a resumed run, correct the counters of batches and epochs."""
        if privates.was_loaded(self):
            self.trainer.should_stop |= any(_stopped(self.trainer))
            epochs: Any = self.epoch_progress.current
            ended = _module(self.trainer).epochs_ended
            if epochs.processed < epochs.started:
                self.epoch_loop.settle()
            elif ended is not None and epochs.completed < epochs.processed and ended < epochs.processed:
                self._settle_at_epoch_end()
            else:
                self._settle_between_epochs()
        super().reset()

    def on_save_checkpoint(self) -> dict[str, Any]:
        """The state of the loaders, set back by the batch that an exception has interrupted."""
        counts: Any = self.epoch_loop.batch_progress.current
        state, done = super().on_save_checkpoint(), counts.processed
        for loader in state.get("combined_loader") or ():
            if isinstance(loader, dict) and loader.get("position") == done + 1:  # of `datamodules`
                loader["position"] = done
        return state

    def on_run_start(self) -> None:
        """Load the validation data even if no validation is due, because callbacks need them."""
        if self.trainer.enable_validation and self.trainer.val_dataloaders is None:
            self.trainer.validating = True
            self.epoch_loop.val_loop.setup_data()
            self.trainer.training = True
        super().on_run_start()

    def _settle_at_epoch_end(self) -> None:
        """Repeat the end of the epoch, because a callback wrote the checkpoint before it."""
        progress: Any = self.epoch_progress
        for counts in (progress.current, progress.total):
            counts.processed -= 1
        privates.mark_restarting(self, True)
        self.epoch_loop.rest = EPOCH_END

    def _settle_between_epochs(self) -> None:
        self._log_ended_epoch()
        progress: Any = self.epoch_progress
        for counts in (progress.current, progress.total):
            counts.ready = counts.completed = counts.processed
        privates.mark_restarting(self, False)
        privates.end_resuming(self)

    def _log_ended_epoch(self) -> None:
        """Log the metrics of the ended epoch, except to loggers that already have them from the checkpoint."""
        trainer, loggers = self.trainer, self.trainer.loggers
        trainer.loggers = [logger for logger in loggers if not getattr(logger, "keeps_rows", False)]
        privates.log_values(trainer, dict(_module(trainer).unlogged))
        trainer.loggers = loggers


def use_resumable_loops(trainer: L.Trainer) -> None:
    """Replace the trainer's loops by the classes above, if they are Lightning's own."""
    if type(trainer.fit_loop) is PlainFitLoop and type(trainer.fit_loop.epoch_loop) is PlainEpochLoop:
        trainer.fit_loop.__class__, trainer.fit_loop.epoch_loop.__class__ = FitLoop, EpochLoop
    if isinstance(trainer.fit_loop.epoch_loop, EpochLoop):
        trainer.fit_loop.epoch_loop.rest = trainer.fit_loop.epoch_loop.joint = None


def _module(trainer: L.Trainer) -> Any:
    """The `ScheduledClassifier` that is trained; its type would be a circular import."""
    return trainer.lightning_module


def _finished(epochs: Progress) -> bool:
    return epochs.current.ready == epochs.current.completed


def _whole(batches: Any) -> bool:
    return batches.is_last_batch and batches.current.ready == batches.current.completed


def _stopped(trainer: L.Trainer) -> Iterator[bool]:
    """For each early stopping, whether it has stopped the run."""
    for callback in privates.callbacks_of(trainer):
        if isinstance(callback, EarlyStopping):
            yield callback.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
