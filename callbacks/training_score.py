"""The module's metrics on its training data, computed as on held-out data and in the trainer's precision."""

from collections.abc import Iterable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.probe import Batch, Periodic
from lit_fa.layers.observing import observing


class TrainingScore(Periodic):
    """Logs `fitted/<metric>`, in percent: each of the classifier's metrics on training batches, in evaluation mode.

    `train/accuracy` differs from it: it is the mean over an epoch during which the weights changed. The metrics are
    those of the module, not of its learner, so a notebook calls `Classifier.score(batches)` in place of `measure`.

    Args:
        samples: largest number of training samples, in the order of the first epoch.
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.

    Raises:
        MeasurementError: fewer than one sample.
    """

    def __init__(self, samples: int = 2000, every_n_steps: int = 0):
        """See the class."""
        super().__init__(every_n_steps)
        if samples < 1:
            raise MeasurementError(f"a score takes at least 1 sample, not {samples}")
        self.samples = samples

    def observe(self, trainer: L.Trainer, module: Any) -> dict[str, float]:
        """The metrics over the first samples, by key."""
        cuda, precision = module.device.type == "cuda", trainer.precision_plugin.forward_context()
        with isolate_rng(include_cuda=cuda), observing(module.network), torch.no_grad(), precision:
            module.network.eval()
            with module.training_batches(whole=True) as epoch:
                scores = module.score(first(epoch(0), self.samples))
        return {f"fitted/{name}": value for name, value in scores.items()}


def first(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """The batches, up to a total of `samples` samples."""
    for inputs, targets in batches:
        yield inputs[:samples], targets[:samples]
        samples -= len(targets)
        if samples <= 0:
            return
