"""The length of a run in optimiser steps and epochs, which the schedules of a rule depend on."""

import math

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging

from lit_fa.errors import UserError
from lit_fa.lightning_privates import callbacks_of, epochs_before_averaging


def run_length(trainer: L.Trainer, accumulate: int = 1) -> tuple[int | None, int | None]:
    """Optimiser steps of a whole run, and epochs that it starts; None if the trainer's limits do not determine them.

    An epoch of n batches on one rank, after `limit_train_batches` and `overfit_batches`, has ceil(n / accumulate)
    steps. An early end of the run (`max_time`, early stopping) is not known here.
    """
    epochs = _epoch_limit(trainer)
    steps = None if trainer.max_steps == -1 else trainer.max_steps
    batches = trainer.num_training_batches
    if not batches or math.isinf(batches):  # not loaded yet, or a loader without length
        return steps, epochs
    per_epoch = math.ceil(batches / accumulate)
    if epochs is not None:
        steps = epochs * per_epoch if steps is None else min(steps, epochs * per_epoch)
    if steps is None:
        return None, None
    return steps, math.ceil(steps / per_epoch)


def check_length(options: list[str], steps: int | None, epochs: int | None) -> None:
    """Refuse options that depend on the length of the run if it is not known.

    Args:
        options: as `LearningRule.follows_length` names them.
        steps, epochs: of `run_length`, once the data are loaded.
    """
    if options and (steps is None or epochs is None):
        raise UserError(
            f"{' and '.join(options)}: this follows the length of the run, which is not known: set trainer.max_epochs "
            "(not -1), and trainer.max_steps too where the training data have no length"
        )


def _epoch_limit(trainer: L.Trainer) -> int | None:
    """The user's limit, without the epoch that stochastic weight averaging adds for BatchNorm statistics."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, StochasticWeightAveraging) and (limit := epochs_before_averaging(callback)) is not None:
            return None if limit == -1 else limit
    return None if trainer.max_epochs in (-1, None) else trainer.max_epochs
