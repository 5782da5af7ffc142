"""The cost of a training step and of a prediction: multiply-adds, parameters and bytes, counted and not timed."""

import lightning as L
import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_fa.callbacks.live_bytes import step_bytes
from lit_fa.callbacks.probe import Batch, Periodic
from lit_fa.layers.observing import observing
from lit_fa.rules.base import Does
from lit_fa.rules.learner import Learner


class TrainingCost(Periodic):
    """Logs, before the first step and at the end of every epoch (pruning may have lowered the ranks):

    * `cost/parameters`: number of trained parameters, including the rule's; `cost/feedback_bytes`: bytes of the buffers
      called feedback;
    * `cost/step_macs`: multiply-adds of one training step per sample: forward pass, backward pass, gradient edits;
    * `cost/inference_macs`: multiply-adds of one prediction;
    * `cost/step_bytes`: peak of live tensor bytes in a step, without parameters and data: activations, gradients and
      tensors saved for the backward pass; `cost/streamed_step_bytes`: the same if a rule with stop-gradients releases
      each block before the next;
    * `cost/optimizer_bytes`: bytes of the optimiser's state.

    Multiply-adds are counted by torch's flop counter, as two flops each.

    Args:
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.
    """

    def __init__(self, every_n_steps: int = 0):
        """See the class."""
        super().__init__(every_n_steps)

    def prepare(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Store one training batch."""
        self.data = batch[0], batch[1]

    def measure(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """Count one step and one prediction."""
        samples = len(batch[0])
        values = {
            "cost/parameters": sum(p.numel() for p in learner.parameters() if p.requires_grad),
            "cost/feedback_bytes": sum(b.nbytes for name, b in learner.tensors()[1].items() if "feedback" in name),
            "cost/step_macs": step_macs(learner, batch) / samples,
            "cost/inference_macs": prediction_macs(learner, batch[0]) / samples,
            "cost/step_bytes": step_bytes(learner, batch),
        }
        if Does.STREAMS in learner.rule.does:
            values["cost/streamed_step_bytes"] = step_bytes(learner, batch, stream=True)
        return {name: float(value) for name, value in values.items()}

    def observe(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        """As `measure`, and the optimiser's state."""
        return super().observe(trainer, module) | {"cost/optimizer_bytes": float(optimizer_bytes(trainer))}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Release the batch."""
        self.data = None


def step_macs(learner: Learner, batch: Batch) -> float:
    """Multiply-adds of forward pass, backward pass and gradient edits on `batch`."""
    with observing(learner), FlopCounterMode(display=False) as counter:
        learner(batch).value.backward()
        learner.edit_gradients()
    return counter.get_total_flops() / 2


def prediction_macs(learner: Learner, inputs: torch.Tensor) -> float:
    """Multiply-adds of the prediction of `inputs`."""
    with observing(learner), torch.no_grad(), FlopCounterMode(display=False) as counter:
        learner.eval().predict(inputs)
    return counter.get_total_flops() / 2


def optimizer_bytes(trainer: L.Trainer) -> int:
    """Bytes of the state of all optimisers."""
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    return sum(t.nbytes for state in states for t in state.values() if isinstance(t, torch.Tensor))
