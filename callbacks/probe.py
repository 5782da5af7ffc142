"""The schedule and the probe batch of the measuring callbacks.

A measurement uses the network only inside `observing`, which restores random state, buffers, modes and gradients. So
removing a callback changes no result.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lit_fa.callbacks.curves import publish
from lit_fa.callbacks.errors import MeasurementError
from lit_fa.layers.sharding import gathered
from lit_fa.rules.learner import Learner
from lit_fa.stage_strategy import stages_of

Batch = tuple[Tensor, Tensor]


class Periodic(L.Callback):
    """Measures before the first step, and then once per epoch or every few optimiser steps.

    Args:
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.

    Raises:
        MeasurementError: a negative number.

    Class attributes:
        needs_every_batch: if False, a pack of runs calls the hooks of batches only around steps after which something
            is measured, logged or saved (`lit_fa.packs`), and `on_before_optimizer_step` in every step.
    """

    needs_every_batch: ClassVar[bool] = False

    def __init__(self, every_n_steps: int = 0):
        """See the class."""
        if every_n_steps < 0:
            raise MeasurementError(f"every_n_steps is a number of steps, or 0 for once per epoch, not {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.ready = False
        self.data: Batch | None = None
        self.measured_at = -1  # optimiser step: with accumulation, several batches end at the same step

    def prepare(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Called once, before the first step of a run or of a resumed run; `batch` is on the device."""

    def measure(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """The measured values, by key.

        Args:
            learner: of a `Classifier` or `FederatedClassifier`; no Trainer is needed, so that a notebook can measure.
            batch: inputs (n, ...) and targets (n,) on the learner's device.
        """
        raise NotImplementedError

    def observe(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        """The values to log: `measure` on the batch of `prepare`. Callbacks that sum over a run override it."""
        assert self.data is not None  # by `prepare`
        return self.measure(learner_of(module), self.data)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the next batch call `prepare` again."""
        self.ready = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Prepare, and measure before the very first step."""
        if not self.ready and trainer.global_step == 0:
            with gathered(learner_of(pl_module)):
                self.prepare(trainer, pl_module, batch)
            self.ready = True
            self._report(trainer, pl_module, monitored=False)
        self.be_ready(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Measure if `every_n_steps` divides the step."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._report(trainer, pl_module, monitored=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure if `every_n_steps` is 0."""
        if not self.every_n_steps:
            self._report(trainer, pl_module, monitored=True)

    def be_ready(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Call `prepare` with the run's first batch, if this process has not called it (in a resumed run)."""
        if not self.ready:
            with gathered(learner_of(module)):
                self.prepare(trainer, module, first_batch(trainer, module))
            self.ready = True

    def _report(self, trainer: L.Trainer, module: L.LightningModule, *, monitored: bool) -> None:
        if not monitored and self.measured_at == trainer.global_step:
            return
        self.be_ready(trainer, module)
        if stages := stages_of(trainer):
            stages.gather()  # a stage has only its own weights
        self.measured_at = trainer.global_step
        with gathered(learner_of(module)):
            values = self.observe(trainer, module)
        publish(trainer, module, values, monitored=monitored)


class Probe(Periodic):
    """Measures on one fixed batch: the first samples of the validation data, or of the training data without any.

    All ranks measure on the same samples. If the loader is not from `datamodules`, rank 0's share of them is used.

    Args:
        every_n_steps: see `Periodic`.
        batch: largest number of samples in the probe batch. Without validation data it is at most one training batch.

    Raises:
        MeasurementError: a batch of fewer than 2 samples.
    """

    def __init__(self, every_n_steps: int = 0, batch: int = 256):
        """See the class."""
        super().__init__(every_n_steps)
        if batch < 2:
            raise MeasurementError(f"a probe batch has at least 2 samples, not {batch}")
        self.batch = batch

    def prepare(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Store the probe batch."""
        held_out = first_samples(trainer, trainer.val_dataloaders, self.batch)
        if held_out is None and trainer.world_size > 1:
            batch = first_batch(trainer, module, whole=True)
        self.data = (batch[0][: self.batch], batch[1][: self.batch]) if held_out is None else held_out

    def observe(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        """As `measure`, in the trainer's precision."""
        with trainer.precision_plugin.train_step_context():
            return super().observe(trainer, module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Release the probe batch."""
        self.data = None


def learner_of(module: L.LightningModule) -> Learner:
    """The learner of a `Classifier` or `FederatedClassifier`."""
    learner = module.learner
    assert isinstance(learner, Learner)
    return learner


def first_batch(trainer: L.Trainer, module: Any, *, whole: bool = False) -> Batch:
    """The first batch of the first epoch, or the first round, on the device. The random state is not changed.

    Args:
        trainer: of the run.
        module: the trained module.
        whole: return the samples of all ranks instead of this rank's share.
    """
    rounds = getattr(trainer.train_dataloader, "round", None)
    if rounds is not None:
        return trainer.strategy.batch_to_device(rounds(0))
    with isolate_rng(include_cuda=torch.cuda.is_available()), module.training_batches(whole=whole) as epoch:
        return next(iter(epoch(0)))


def first_samples(trainer: L.Trainer, loaders: Any, count: int) -> Batch | None:
    """The first `count` samples of the first loader, on the device; None without a loader.

    The random state is not changed.
    """
    loader = loaders[0] if isinstance(loaders, (list, tuple)) and loaders else loaders
    if not loader:
        return None
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    seen = 0
    with isolate_rng(include_cuda=False):
        for x, y in on_device(trainer, unshared(loader)):
            if inputs and x.shape[1:] != inputs[0].shape[1:]:
                break  # texts of another length
            inputs.append(x[: count - seen])
            targets.append(y[: count - seen])
            seen += len(x)
            if seen >= count:
                break
    return torch.cat(inputs), torch.cat(targets)


def unshared(loader: Any) -> Iterable[Batch]:
    """A loader of the samples of all ranks; a loader that is not from `datamodules` is returned unchanged."""
    return loader.whole() if hasattr(loader, "whole") else loader


def on_device(trainer: L.Trainer, loader: Iterable[Batch]) -> Iterable[Batch]:
    """The batches in the trainer's precision and on its device."""
    for batch in loader:
        x, y = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))[:2]
        yield x, y
