"""Why a run takes all its steps in the training loop, in one sentence."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.profilers import PassThroughProfiler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lit_fa.lightning_privates import callbacks_of, setting
from lit_fa.modules import Classifier
from lit_fa.modules.timed_checkpoints import TimedCheckpoints

BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_before_optimizer_step", "on_before_zero_grad")
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
KNOWN = (ModelCheckpoint, TimedCheckpoints)  # classes whose hooks of batches are needed in observed steps only


def why_alone(trainer: L.Trainer, module: L.LightningModule) -> str | None:
    """What needs every step of this run to be an ordinary one; None: it can take joint steps.

    Args:
        trainer: in a fit, after its first hooks.
        module: that it trains.
    """
    if type(module) is not Classifier:
        return f"{type(module).__name__} is no Classifier"
    if module.device.type not in ("cpu", "cuda"):
        return f"joint steps on {module.device.type} have not been tried"
    if torch.get_num_threads() > 1 and module.device.type == "cpu":
        return "joint steps are equal to those of a run alone on a CPU with one thread only"
    if module.adapters is not None:
        return "adapters are updated after every step"
    if any(isinstance(c.scheduler, ReduceLROnPlateau) and c.interval == "step" for c in trainer.lr_scheduler_configs):
        return "a plateau follows every step"
    if type(setting(trainer, "profiler")) is not PassThroughProfiler:
        return f"{type(setting(trainer, 'profiler')).__name__} measures every step"
    if any("wandb" in type(logger).__name__.lower() for logger in trainer.loggers):
        return "a process has one W&B run at a time"
    if not hasattr(trainer.train_dataloader, "own"):
        return "its loader is not from datamodules"
    data = setting(trainer, "datamodule")
    for owner, base in ((module, L.LightningModule), (data, L.LightningDataModule)):
        if any(getattr(type(owner), hook, None) is not getattr(base, hook) for hook in TRANSFERS):
            return f"{type(owner).__name__} transfers batches itself"
    for callback in callbacks_of(trainer):
        if isinstance(callback, StochasticWeightAveraging) or _needs_every_batch(callback):
            return f"{type(callback).__name__} needs every step"
    return module.gradients.why_in_loop(module)


def _needs_every_batch(callback: Any) -> bool:
    """Whether a class with a hook for batches does not say that it needs them in observed steps only."""
    kinds = type(callback).__mro__
    for hook in BATCH_HOOKS:
        owner = next(kind for kind in kinds if hook in vars(kind))
        if owner is not L.Callback and owner not in KNOWN and vars(owner).get("needs_every_batch", True):
            return True
    return False
