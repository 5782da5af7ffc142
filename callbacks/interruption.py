"""A signal asks a fit to end: the step under way is finished, a checkpoint is kept, and the way to go on is said."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from lit_fa.stopping import SIGNALS, Request, Stopped, exit_code


class Interruption(Checkpoint):
    """Keeps a checkpoint when SIGINT (Ctrl-C), SIGTERM or SIGHUP comes during a fit, and ends it.

    Training stops after the batch, or, where it was the epoch's last, after validation and the epoch's end, so that
    nothing is left out when it goes on. A second Ctrl-C stops at once. Ranks agree on the step, whichever of them the
    signal reached. Lightning's own handler of SIGTERM, which would end the process without a checkpoint and with exit
    code 0, is replaced while training goes on; its handler that requeues a SLURM job (SIGUSR1) stays.

    Args:
        going_on: from the checkpoint's path to what is said about going on.
        path: of the checkpoint; None: `interrupted.ckpt` in the run's folder.
    """

    def __init__(self, going_on: Callable[[str], str], path: Path | None = None):
        """See the class."""
        self.going_on, self.path = going_on, path
        self.request, self.before = Request(), {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Note the handlers of before; Lightning sets its own after this hook."""
        # a worker of a table is asked repeatedly by its parent, which kills it where it takes too long
        self.request = Request(patient=multiprocessing.parent_process() is not None)
        if threading.current_thread() is threading.main_thread():
            found = {signum: signal.getsignal(signum) for signum in SIGNALS}
            self.before = {signum: old for signum, old in found.items() if old not in (signal.SIG_IGN, None)}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over."""
        for signum in self.before:
            signal.signal(signum, self._ask)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Outside a fit there is nothing to keep: end at once, by the handlers of before and not by Lightning's."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._set_before()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same."""
        self._set_before()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The same."""
        self._set_before()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Stop in the middle of an epoch."""
        if not trainer.is_last_batch:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop between epochs."""
        self._stop_if_asked(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def _ask(self, signum: int, frame: object = None) -> None:
        first = not self.request.signum
        self.request(signum)
        if first:
            rank_zero_info("\nfinishing this step; press Ctrl-C again to stop at once")

    def _set_before(self) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _give_back(self) -> None:
        self._set_before()
        self.before = {}

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        if not (signum := _of_any_rank(trainer, self.request.signum)):
            return
        path = self.path or Path(trainer.log_dir or trainer.default_root_dir) / "interrupted.ckpt"
        trainer.save_checkpoint(path)
        stopped = Stopped(signum, f"interrupted after step {trainer.global_step}; {self.going_on(str(path))}")
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            if trainer.is_global_zero:
                print(stopped, flush=True)
            raise SystemExit(exit_code(stopped))  # torch takes a forked rank's KeyboardInterrupt for its end
        raise stopped


def _of_any_rank(trainer: L.Trainer, signum: int) -> int:
    if trainer.world_size == 1:
        return signum
    asked = torch.tensor(float(signum), device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(asked, reduce_op="max"))


def hand_on_to_ranks(trainer: L.Trainer) -> None:
    """The parent of forked ranks only waits for them: let it hand every signal on.

    The handlers stay; whoever calls this gives the signals back.
    """
    launcher, parent, request = trainer.strategy.launcher, os.getpid(), Request(patient=True)
    if not isinstance(launcher, _MultiProcessingLauncher) or threading.current_thread() is not threading.main_thread():
        return

    def hand_on(signum: int, frame: object = None) -> None:
        if os.getpid() != parent:  # a rank, which has inherited the handler
            raise Stopped(signum)
        again = request.signum and signum == signal.SIGINT
        request(signum)
        for rank in launcher.procs:
            os.kill(rank.pid, signal.SIGKILL if again else signal.SIGTERM)

    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, hand_on)
