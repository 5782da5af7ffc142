"""`ModelCheckpoint(train_time_interval=...)`, which Lightning leaves out under manual optimisation."""

import time

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint


class TimedCheckpoints(Checkpoint):
    """Lets every timed `ModelCheckpoint` save behind a training batch when its interval is over.

    Lightning's hook returns before it looks at the time when a module optimises by hand. Rank 0's clock decides for
    all. A `Checkpoint`, so that it runs behind the other callbacks, and what they have measured is saved.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Save where it is due."""
        for checkpoint in timed(trainer):
            if trainer.strategy.broadcast(_due(checkpoint)) and not checkpoint._should_skip_saving_checkpoint(trainer):
                checkpoint._last_time_checked = time.monotonic()
                _save(checkpoint, trainer)


def timed(trainer: L.Trainer) -> list[ModelCheckpoint]:
    """The checkpoint callbacks that save by time."""
    callbacks = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]
    return [c for c in callbacks if c._train_time_interval is not None]


def _due(checkpoint: ModelCheckpoint) -> bool:
    since = checkpoint._last_time_checked
    return since is not None and time.monotonic() - since >= checkpoint._train_time_interval.total_seconds()


def _save(checkpoint: ModelCheckpoint, trainer: L.Trainer) -> None:
    candidates = checkpoint._monitor_candidates(trainer)
    if checkpoint.monitor is not None and checkpoint.monitor not in candidates:
        checkpoint._defer_save_until_validation = True
        return
    checkpoint._save_topk_checkpoint(trainer, candidates)
    checkpoint._save_last_checkpoint(trainer, candidates)
