"""The cost of the exported network and of its dense form, counted and timed."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import lightning as L
import torch

from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.probe import Batch, Periodic
from lit_fa.deployment.measure import compared, dense_twin
from lit_fa.deployment.simplify import CHEAPER, simplified
from lit_fa.rules.base import Does
from lit_fa.rules.learner import Learner


class DeployedCost(Periodic):
    """Logs, for the network that `lit-fa export` would write:

    * `deployed/parameters`, `deployed/macs`: its parameters and multiply-adds per sample; `deployed/dense_parameters`,
      `deployed/dense_macs`: the same with every factored layer merged;
    * `deployed/time_ratio`: its time divided by that of the dense network, for one batch on one processor thread, as
      the median of rounds in which the two alternate; `deployed/ms`: its median time in milliseconds.

    Nothing is logged for a rule whose prediction is more than a forward pass.

    Args:
        by: criterion for keeping a layer factored: `macs` or `time`.
        batch: images in the timed batch.
        rounds: number of timings.
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.

    Raises:
        MeasurementError: fewer than 2 images or 1 round, or an unknown criterion.
    """

    needs_whole_module: ClassVar[bool] = True  # refused where parameters are divided among ranks

    def __init__(self, by: Literal["macs", "time"] = "time", batch: int = 32, rounds: int = 30, every_n_steps: int = 0):
        """See the class."""
        super().__init__(every_n_steps)
        if batch < 2 or rounds < 1:
            raise MeasurementError(f"a timing takes at least 2 images and 1 round, not {batch} and {rounds}")
        if by not in CHEAPER:
            raise MeasurementError(f"by is one of {', '.join(CHEAPER)}, not '{by}'")
        self.by, self.batch, self.rounds = by, batch, rounds

    def prepare(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Store some training images."""
        self.data = batch[0][: self.batch].cpu(), batch[1][: self.batch].cpu()

    def measure(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """Simplify a copy of the network, and count and time it."""
        if Does.PREDICTS in learner.rule.does:
            return {}
        inputs = batch[0].cpu()
        inputs = inputs.float() if inputs.is_floating_point() else inputs  # token ids stay integers
        network = copy.deepcopy(learner.network).float().cpu()
        with one_thread():
            networks = {"dense": dense_twin(network, inputs), "exported": simplified(network, inputs, self.by)}
            rows = compared(networks, inputs, self.rounds)
        exported, dense = rows["exported"], rows["dense"]
        return {
            "deployed/parameters": float(exported["parameters"]),
            "deployed/macs": exported["macs"],
            "deployed/dense_parameters": float(dense["parameters"]),
            "deployed/dense_macs": dense["macs"],
            "deployed/ms": exported["ms"],
            "deployed/time_ratio": exported["ratio"],
        }

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Release the images."""
        self.data = None


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, torch uses one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
