"""Checks that training batches fit the example on which the rule was installed, and batch normalisation."""

from collections.abc import Sized
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.layers.observing import observing
from lit_fa.layers.sharding import gathered
from lit_fa.lightning_privates import training_loader
from lit_fa.modules.warm_up import batches_an_epoch
from lit_fa.rules.learner import Learner

BATCH_NORM = nn.modules.batchnorm._BatchNorm
TOO_FEW = "Expected more than 1 value per channel"


def check_inputs(inputs: Tensor, shown: tuple[int, ...] | None) -> None:
    """Refuse a batch whose samples have another shape than the example of `install`.

    Args:
        inputs: (n, ...).
        shown: shape of one sample at `install`; None: texts, whose length may differ.
    """
    if shown is not None and tuple(inputs.shape[1:]) != shown:
        flat = inputs.dim() == 2 and inputs.shape[1] == torch.Size(shown).numel()
        why = " (the data have flatten: true)" if flat else ""
        raise UserError(
            f"a batch has samples of shape {tuple(inputs.shape[1:])}{why}, and the rule was installed on {shown}: give "
            f"the module input_shape={tuple(inputs.shape[1:])}, which is the data's sample_shape"
        )


def check_smallest_batch(trainer: L.Trainer, learner: Learner, example: Tensor) -> None:
    """Refuse a run with a batch of one sample, if a batch normalisation would then have one value per channel.

    Args:
        trainer: about to fit.
        learner: on its device.
        example: (1, ...) a batch of one sample.

    Raises:
        UserError: names the batch and the remedy.
    """
    if not any(isinstance(module, BATCH_NORM) for module in learner.network.modules()):
        return
    loader = training_loader(trainer)
    batches = rounds_of(trainer, loader) if hasattr(loader, "parts") else batches_an_epoch(trainer, loader)
    if smallest_batch(loader, batches) == 1 and normalises_alone(learner, example):
        whose = "a client's batch" if hasattr(loader, "parts") else "a training batch"
        share = f" (on one of {trainer.world_size} devices)" if trainer.world_size > 1 else ""
        raise UserError(
            f"{whose}{share} has one sample, which BatchNorm cannot normalise while it trains: set the data's "
            "drop_last: true, or another batch_size; a client of one sample needs another partition"
        )


def rounds_of(trainer: L.Trainer, loader: Sized) -> int | None:
    """Rounds of the whole run; None if their number is not known."""
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    epochs = trainer.max_epochs or -1
    limits += [epochs * len(loader)] if epochs > 0 else []
    return min(limits, default=None)


def smallest_batch(loader: Any, batches: int | None) -> int | None:
    """Samples of the smallest of the first `batches` batches on any device; None if it is not known."""
    if hasattr(loader, "smallest"):
        return loader.smallest(batches)
    size, samples = getattr(loader, "batch_size", None), getattr(loader, "dataset", None)
    if size is None or not isinstance(samples, Sized):
        return None
    rest = 0 if getattr(loader, "drop_last", False) else len(samples) % size
    reached = batches is None or batches > len(samples) // size
    return rest if rest and reached else size


def normalises_alone(learner: Learner, example: Tensor) -> bool:
    """Whether a batch normalisation refuses one sample in the rule's forward pass.

    A rule may repeat the sample, and a feature map has several values per channel; then one sample suffices.
    """
    target = torch.zeros(1, dtype=torch.int64, device=example.device)
    with gathered(learner), observing(learner), torch.enable_grad():
        try:
            learner.forward((example, target))
        except ValueError as error:
            return TOO_FEW in str(error)
        except (RuntimeError, IndexError):  # another error, which the run itself will raise
            return False
    return False
