"""The module's own metrics on its training data, measured as on held-out data, in the trainer's precision too."""

from collections.abc import Iterable, Iterator

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from callbacks.errors import MeasurementError
from callbacks.probe import Batch, Periodic
from lit_fa.layers.observing import observing


class TrainingScore(Periodic):
    """Logs `fitted/<metric>`, in percent: each of the classifier's metrics on training batches, in evaluation mode.

    `train/accuracy` is another number: the mean over an epoch in which the network still moved.

    Args:
        samples: most training samples that are looked at, in the order of the first epoch.
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.
    """

    def __init__(self, samples: int = 2000, every_n_steps: int = 0):
        """See the class."""
        super().__init__(every_n_steps)
        if samples < 1:
            raise MeasurementError(f"a score takes at least 1 sample, not {samples}")
        self.samples = samples

    def measure(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        """Over the first samples."""
        cuda, precision = module.device.type == "cuda", trainer.precision_plugin.forward_context()
        with isolate_rng(include_cuda=cuda), observing(module.network), torch.no_grad(), precision:
            module.network.eval()
            with module.training_batches(whole=True) as epoch:
                found = module.score(first(epoch(0), self.samples))
        return {f"fitted/{name}": value for name, value in found.items()}


def first(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """The batches up to so many samples."""
    for inputs, targets in batches:
        yield inputs[:samples], targets[:samples]
        samples -= len(targets)
        if samples <= 0:
            return
