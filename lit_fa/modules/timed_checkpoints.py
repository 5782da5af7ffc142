"""`ModelCheckpoint(train_time_interval=...)`, which Lightning ignores under manual optimisation."""

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from lit_fa.lightning_privates import callbacks_of, save_by_time, save_interval, save_is_due


class TimedCheckpoints(Checkpoint):
    """Lets every `ModelCheckpoint` with `train_time_interval` save after a batch when its interval is over.

    Rank 0's clock decides for all ranks. This is a `Checkpoint`, so it runs after the other callbacks, and what they
    have measured is saved.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Save where it is due."""
        for checkpoint in timed(trainer):
            if trainer.strategy.broadcast(save_is_due(checkpoint)):
                save_by_time(checkpoint, trainer)


def timed(trainer: L.Trainer) -> list[ModelCheckpoint]:
    """The checkpoint callbacks that save by time."""
    return [c for c in callbacks_of(trainer) if isinstance(c, ModelCheckpoint) and save_interval(c) is not None]
