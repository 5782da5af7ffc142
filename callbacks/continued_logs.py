"""What a checkpoint holds of the logs of its run, so that a resumed run continues them.

A killed process has logged more than its last checkpoint knows, and the row that the trainer logs after the checkpoint
would be missing. Therefore a checkpoint holds the position of each log, or its rows, and that one row.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from lit_fa.lightning_privates import batch_is_ending, epoch_is_ending, logs_this_batch, values_to_log

Metrics = dict[str, float]
Following = list[tuple[Metrics, int]]  # metrics and step of rows that are not logged yet
ENTRY = "logs"  # of a checkpoint: kind of logger to its state


@runtime_checkable
class ContinuedLogger(Protocol):
    """A logger that a resumed run continues.

    Attributes:
        kind: its name in a checkpoint; a trainer continues one logger of each kind.
        keeps_rows: True; checkpoints also hold the row of an epoch that is not logged yet.
        for_tests: whether a test of a checkpoint belongs to its run too; otherwise it has a log of its own.
    """

    kind: str
    keeps_rows: bool
    for_tests: bool

    def state(self, following: Following) -> dict[str, Any]:
        """Plain data for a checkpoint."""

    def continue_run(self, **state: Any) -> None:
        """Continue the log of a checkpoint; does nothing if the log is open already."""


class ContinuedLogs(L.Callback):
    """Stores the state of the trainer's loggers in checkpoints. The command line adds it where a logger needs it."""

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store where each log stands, and the row that the trainer logs next."""
        following = _following(trainer)  # a collective operation: all ranks compute it
        if trainer.is_global_zero and (loggers := continued(trainer)):
            checkpoint[ENTRY] = {kind: logger.state(following) for kind, logger in loggers.items()}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue the logs of the checkpoint."""
        continue_logs(trainer, checkpoint, fits=trainer.state.fn == TrainerFn.FITTING)


def continue_logs(trainer: L.Trainer, checkpoint: Mapping[str, Any], *, fits: bool = True) -> None:
    """Give the trainer's loggers what a checkpoint holds of them; before a fit, so that all folders are its own."""
    states = dict(checkpoint.get(ENTRY) or {})
    if "wandb" in checkpoint:  # of an earlier version of this package
        states["wandb"] = checkpoint["wandb"]
    for kind, logger in continued(trainer).items():
        if kind in states and (fits or logger.for_tests):
            logger.continue_run(**states[kind])


def continued(trainer: L.Trainer) -> dict[str, ContinuedLogger]:
    """Kind to the trainer's first logger of that kind."""
    found: dict[str, ContinuedLogger] = {}
    for logger in trainer.loggers:
        if isinstance(logger, ContinuedLogger):
            found.setdefault(logger.kind, logger)
    return found


def _following(trainer: L.Trainer) -> Following:
    """The row that the trainer logs after this hook at the end of a batch or epoch; a resumed run would not log it."""
    batch_is_logged = trainer.training and batch_is_ending(trainer) and logs_this_batch(trainer)
    if not (batch_is_logged or epoch_is_ending(trainer)):
        return []
    values = {key: float(value) for key, value in values_to_log(trainer).items()}
    step = trainer.fit_loop.total_batch_idx
    return [(values | {"epoch": trainer.current_epoch}, step)] if values else []
