"""Lightning's training loops, except that a resumed run first does what follows its checkpoint before the next batch.

A checkpoint can be written at four points around the end of an epoch:

* after a batch (`every_n_train_steps`, `train_time_interval`): validation, if one is due, and the epoch's end, if the
  batch was the last, are still to come;
* when validation has ended: of these only the epoch's end is still to come;
* at the epoch's end, which is its last act: the next epoch is to come, or the end of training; but a callback that is
  no `Checkpoint` may write it before the module has ended the epoch;
* when an epoch starts.

Lightning goes on from the first point with the next batch, without validation and epoch's end, and under `max_steps`
it ends an epoch twice that had ended already.
"""

from collections.abc import Iterator

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from lit_fa import lightning_privates as privates
from lit_fa.lightning_privates import DataFetcher, PlainEpochLoop, PlainFitLoop, Progress

VALIDATION, ITERATION_END, EPOCH_END = "validation", "iteration end", "epoch end"  # what comes first on resuming


class EpochLoop(PlainEpochLoop):
    """Begins a resumed epoch with the rest of the iteration in which the checkpoint was written."""

    rest: str | None = None  # where it goes on in that iteration; None: the next batch comes next

    def settle(self) -> None:
        """Find out what is left of the iteration, and let the counters say that its batch is done."""
        batch = self.batch_progress
        if batch.current.processed < batch.current.ready:  # an exception ended a batch half-way: it is done again
            for counts in (batch.current, batch.total):
                counts.ready = counts.started = counts.processed = counts.completed
        elif batch.current.completed < batch.current.processed:
            batch.increment_completed()
            self.rest = VALIDATION
        elif privates.iteration_ends_epoch_or_validates(self):
            self.rest = ITERATION_END if _whole(self.val_loop.batch_progress) else VALIDATION

    @property
    def done(self) -> bool:
        """Not before the iteration is."""
        return self.rest is None and super().done

    def advance(self, data_fetcher: DataFetcher) -> None:
        """The next batch, or none: what follows a batch then comes at once."""
        self.restarting = False  # Lightning would guess what `settle` knows
        rest, self.rest = self.rest, None
        if rest is None:
            super().advance(data_fetcher)
            return
        self.trainer.lightning_module.take_up()
        privates.skip_validation(self, rest != VALIDATION)
        if rest == EPOCH_END:
            privates.uncount_logged_batch(self)


class FitLoop(PlainFitLoop):
    """Goes on from a checkpoint at the point at which it was written."""

    epoch_loop: EpochLoop

    @property
    def skip(self) -> bool:
        """Not where a resumed run has anything left to do, be it the end of training alone."""
        if not privates.was_loaded(self) or _finished(self.epoch_progress):
            return super().skip
        return self.max_batches == 0 or self.trainer.limit_train_batches == 0

    @property
    def done(self) -> bool:
        """Not within an iteration."""
        return self.epoch_loop.rest is None and super().done

    def run(self) -> None:
        """Begin with the metrics that the checkpoint knew: callbacks that look at them, and records, miss none."""
        if privates.was_loaded(self):
            self.trainer.callback_metrics.update(self.trainer.lightning_module.measured)
        super().run()

    def reset(self) -> None:
        """Of a resumed run, settle the counters: they stand after a batch, or between two epochs."""
        if privates.was_loaded(self):
            self.trainer.should_stop |= any(_stopped(self.trainer))
            epochs, ended = self.epoch_progress.current, self.trainer.lightning_module.epochs_ended
            if epochs.processed < epochs.started:
                self.epoch_loop.settle()
            elif ended is not None and epochs.completed < epochs.processed and ended < epochs.processed:
                self._settle_at_epoch_end()
            else:
                self._settle_between_epochs()
        super().reset()

    def on_save_checkpoint(self) -> dict:
        """A batch that has been delivered and is not done, because an exception has ended it, is delivered again."""
        state, done = super().on_save_checkpoint(), self.epoch_loop.batch_progress.current.processed
        for loader in state.get("combined_loader") or ():
            if isinstance(loader, dict) and loader.get("position") == done + 1:  # of `datamodules`
                loader["position"] = done
        return state

    def on_run_start(self) -> None:
        """Load the validation data, of which callbacks take their samples, also where no validation is due soon."""
        if self.trainer.enable_validation and self.trainer.val_dataloaders is None:
            self.trainer.validating = True
            self.epoch_loop.val_loop.setup_data()
            self.trainer.training = True
        super().on_run_start()

    def _settle_at_epoch_end(self) -> None:
        """A callback has written the checkpoint before the module has ended the epoch: all of it is done again."""
        for counts in (self.epoch_progress.current, self.epoch_progress.total):
            counts.processed -= 1
        privates.mark_restarting(self, True)
        self.epoch_loop.rest = EPOCH_END

    def _settle_between_epochs(self) -> None:
        self._log_ended_epoch()
        for counts in (self.epoch_progress.current, self.epoch_progress.total):
            counts.ready = counts.completed = counts.processed
        privates.mark_restarting(self, False)
        privates.end_resuming(self)

    def _log_ended_epoch(self) -> None:
        """As where Lightning logs an epoch's metrics; a logger that keeps its rows in checkpoints has them."""
        trainer, loggers = self.trainer, self.trainer.loggers
        trainer.loggers = [logger for logger in loggers if not getattr(logger, "keeps_rows", False)]
        privates.log_values(trainer, dict(trainer.lightning_module.unlogged))
        trainer.loggers = loggers


def goes_on_exactly(trainer: L.Trainer) -> None:
    """Let the trainer's loops be those above; loops that are not Lightning's own are left alone."""
    if type(trainer.fit_loop) is PlainFitLoop and type(trainer.fit_loop.epoch_loop) is PlainEpochLoop:
        trainer.fit_loop.__class__, trainer.fit_loop.epoch_loop.__class__ = FitLoop, EpochLoop
    if isinstance(trainer.fit_loop.epoch_loop, EpochLoop):
        trainer.fit_loop.epoch_loop.rest = None


def _finished(epochs: Progress) -> bool:
    return epochs.current.ready == epochs.current.completed


def _whole(batches: Progress) -> bool:
    return batches.is_last_batch and batches.current.ready == batches.current.completed


def _stopped(trainer: L.Trainer) -> Iterator[bool]:
    """Which early stoppings had stopped the run."""
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping):
            yield callback.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
