"""`ModelCheckpoint(train_time_interval=...)`, which Lightning ignores under manual optimisation."""

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from lit_fa.lightning_privates import callbacks_of, save_by_time, save_interval, save_is_due


class TimedCheckpoints(Checkpoint):
    """Lets every `ModelCheckpoint` with `train_time_interval` save after a batch when its interval has passed.

    The clock of rank 0 decides for all ranks. As a `Checkpoint` this callback runs after all others, so that their
    measurements are saved.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Save if it is due."""
        for checkpoint in timed(trainer):
            if trainer.strategy.broadcast(save_is_due(checkpoint)):
                save_by_time(checkpoint, trainer)


def timed(trainer: L.Trainer) -> list[ModelCheckpoint]:
    """The checkpoint callbacks that save by time."""
    return [c for c in callbacks_of(trainer) if isinstance(c, ModelCheckpoint) and save_interval(c) is not None]
