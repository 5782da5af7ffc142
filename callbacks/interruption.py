"""Ctrl-C at a terminal: the step under way is finished, a checkpoint is kept, and the way to go on is said."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info


class Interruption(Checkpoint):
    """Keeps `interrupted.ckpt` in the run's folder when Ctrl-C is pressed in a fit on one device.

    Training stops after the batch, or, where it was the epoch's last, after validation and the epoch's end, so that
    nothing is left out when it goes on. A second Ctrl-C stops at once. On several devices Lightning's own way stays:
    ranks would stop at different steps.

    Args:
        going_on: from the checkpoint's path to the command that goes on.
    """

    def __init__(self, going_on: Callable[[str], str]):
        """See the class."""
        self.going_on, self.asked, self.before = going_on, False, None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take Ctrl-C over."""
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self.asked, self.before = False, signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Stop in the middle of an epoch."""
        if self.asked and not trainer.is_last_batch:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop between epochs."""
        if self.asked:
            self._stop(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def _ask(self, *_: object) -> None:
        self.asked = True
        self._give_back()
        rank_zero_info("\nfinishing this step; press Ctrl-C again to stop at once")

    def _give_back(self) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
            self.before = None

    def _stop(self, trainer: L.Trainer) -> None:
        path = Path(trainer.log_dir or trainer.default_root_dir) / "interrupted.ckpt"
        trainer.save_checkpoint(path)
        raise KeyboardInterrupt(f"interrupted after step {trainer.global_step}; go on with: {self.going_on(str(path))}")
