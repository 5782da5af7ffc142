"""A signal during a fit finishes the current step, saves a checkpoint and prints how to resume."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from lit_fa.errors import RanksNeeded
from lit_fa.lightning_privates import forking_launcher, ranks_by_command_line, stop_observing_ranks
from lit_fa.stage_strategy import stages_of
from lit_fa.stopping import SIGNALS, Request, Stopped, exit_code


class Interruption(Checkpoint):
    """Saves a checkpoint and ends the fit on SIGINT (Ctrl-C), SIGTERM or SIGHUP.

    Training stops after the current batch. If that is the last batch of an epoch, it stops after validation and the end
    of the epoch, so that a resumed run skips nothing. A second Ctrl-C stops at once. All ranks stop at the same step,
    whichever of them received the signal. During training this replaces Lightning's handler of SIGTERM, which would end
    the process without a checkpoint and with exit code 0. Its handler that requeues a SLURM job (SIGUSR1) is kept.

    Args:
        resume_command: function of the checkpoint's path that returns the sentence about resuming.
        path: of the checkpoint; None: `interrupted.ckpt` in the run's folder.
    """

    needs_every_batch: ClassVar[bool] = False  # a pack asks `request` in its joint steps

    def __init__(self, resume_command: Callable[[str], str], path: Path | None = None):
        """See the class."""
        self.resume_command, self.path = resume_command, path
        self.request = Request()
        self.before: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Store the present handlers; Lightning sets its own after this hook."""
        # the parent of a table's worker repeats its signal, and kills the worker if it takes too long
        self.request = Request(patient=multiprocessing.parent_process() is not None)
        if threading.current_thread() is threading.main_thread():
            handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
            self.before = {signum: old for signum, old in handlers.items() if old not in (signal.SIG_IGN, None)}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the handlers."""
        for signum in self.before:
            signal.signal(signum, self._ask)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Outside a fit there is nothing to save: restore the stored handlers, so that a signal ends the process."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._restore()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As `on_validation_start`."""
        self._restore()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As `on_validation_start`."""
        self._restore()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Stop within an epoch if a signal came."""
        if not trainer.is_last_batch:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after an epoch if a signal came."""
        self._stop_if_asked(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the handlers."""
        self._release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the handlers; after a signal let rank 0 end by itself, with the signal's exit code."""
        self._release()
        if isinstance(exception, KeyboardInterrupt):
            stop_observing_ranks(trainer)

    def _ask(self, signum: int, frame: object = None) -> None:
        first = not self.request.signum
        self.request(signum)
        if first:
            rank_zero_info("\nfinishing this step; press Ctrl-C again to stop at once")

    def _restore(self) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _release(self) -> None:
        self._restore()
        self.before = {}

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        if not (signum := _of_any_rank(trainer, self.request.signum)):
            return
        path = self.path or Path(trainer.log_dir or trainer.default_root_dir) / "interrupted.ckpt"
        trainer.save_checkpoint(path)
        stopped = Stopped(signum, f"interrupted after step {trainer.global_step}; {self.resume_command(str(path))}")
        if forking_launcher(trainer):
            if trainer.is_global_zero:
                print(stopped, flush=True)
            raise SystemExit(exit_code(stopped))  # torch would treat a KeyboardInterrupt of a forked rank as success
        raise stopped


def _of_any_rank(trainer: L.Trainer, signum: int) -> int:
    if stages := stages_of(trainer):
        return stages.any_rank(signum)
    if trainer.world_size == 1:
        return signum
    asked = torch.tensor(float(signum), device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(asked, reduce_op="max"))


def forward_signals_to_ranks(trainer: L.Trainer) -> None:
    """Make the parent process of forked ranks, which only waits for them, forward every signal to them.

    The caller restores the handlers.
    """
    launcher, parent, request = forking_launcher(trainer), os.getpid(), Request(patient=True)
    if launcher is None or threading.current_thread() is not threading.main_thread():
        return

    def forward(signum: int, frame: object = None) -> None:
        if os.getpid() != parent:  # a rank that has inherited the handler
            raise Stopped(signum)
        again = request.signum and signum == signal.SIGINT
        request(signum)
        for rank in launcher.procs:
            os.kill(rank.pid, signal.SIGKILL if again else signal.SIGTERM)

    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, forward)


def check_process(trainer: L.Trainer) -> None:
    """Lightning starts ranks by the command line of their process, which in a worker is that of the whole table.

    Raises:
        RanksNeeded: this is a worker, and the trainer would start ranks.
    """
    if ranks_by_command_line(trainer) > 1 and multiprocessing.parent_process() is not None:
        raise RanksNeeded
