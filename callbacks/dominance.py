"""How strongly a rule's updates decrease the loss: inner product with the gradient, relative to powers of the loss."""

import copy
from collections.abc import Iterable
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lit_fa.callbacks.curves import publish
from lit_fa.callbacks.gradient_alignment import rule_gradients, true_gradients
from lit_fa.callbacks.probe import Batch, Probe, learner_of, on_device, unshared
from lit_fa.functional.dominance import fit_alpha, fit_exponent, loss_bound
from lit_fa.rules.learner import Learner


class AlignmentDominance(Probe):
    r"""Logs `dominance/q` = <gradient, update> and `dominance/loss`; when training ends, also:

    * `dominance/alpha_1` and `/alpha_2`: the largest $\alpha$ with $q \ge \alpha L^\beta$ at all measured points, for
      $\beta$ = 1 and 2;
    * `/bound_1` and `/bound_2`: 1 if the loss is below the resulting bound at all points, else 0;
    * `/exponent`: slope of log q over log L.

    q includes all parameters, also those of layers with an exact update, because the bounds are on the whole loss. Time
    is the sum of the learning rates (of the first parameter group). The bounds hold for gradient flow on the measured
    loss; source: `lit_fa.functional.dominance`.

    Args:
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.
        batch: largest number of samples in the probe batch, unless `full`.
        full: measure on all training batches, which costs an epoch for each measurement.
    """

    needs_every_batch: ClassVar[bool] = False  # only `on_before_optimizer_step`

    def __init__(self, every_n_steps: int = 0, batch: int = 256, full: bool = False):
        """See the class."""
        super().__init__(every_n_steps, batch)
        self.full = full
        self.time = 0.0
        self.points: list[tuple[float, float, float]] = []  # time, loss, q

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Advance the time by the learning rate."""
        self.time += float(optimizer.param_groups[0]["lr"])

    def measure(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """q and the loss, by key."""
        loss, q = descent(learner, [batch])
        return {"dominance/q": q, "dominance/loss": loss}

    def observe(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        """As `measure`, or on all training data; the point is stored."""
        values = self._on_all(trainer, module) if self.full else super().observe(trainer, module)
        self.points.append((self.time, values["dominance/loss"], values["dominance/q"]))
        return values

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit alpha and the exponent, compare the bounds with the loss, and log the results."""
        super().on_train_end(trainer, pl_module)
        time, loss, q = torch.tensor(self.points, dtype=torch.float64).t()
        values = {"dominance/exponent": fit_exponent(q, loss).exponent}
        for beta in (1, 2):
            alpha = fit_alpha(q, loss, beta)
            bound = loss_bound(loss[0].item(), alpha, beta, time - time[0])
            values[f"dominance/alpha_{beta}"] = alpha
            values[f"dominance/bound_{beta}"] = float((loss <= bound * (1 + 1e-9)).all())
        publish(trainer, pl_module, values, monitored=False)

    def state_dict(self) -> dict[str, Any]:
        """Time and measured points."""
        return {"time": self.time, "points": self.points}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore time and points."""
        self.time, self.points = state["time"], [tuple(point) for point in state["points"]]

    def _on_all(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        # a copy, so that the position of a resumable loader does not change
        loader = copy.copy(unshared(trainer.train_dataloader))
        with isolate_rng(include_cuda=False), trainer.precision_plugin.train_step_context():
            loss, q = descent(learner_of(module), on_device(trainer, loader))
        return {"dominance/q": q, "dominance/loss": loss}


def descent(learner: Learner, batches: Iterable[Batch]) -> tuple[float, float]:
    """(loss, <gradient, update>); loss, gradient and update are averaged over all samples of `batches`."""
    samples, loss = 0, 0.0
    sums: dict[str, dict[str, torch.Tensor]] = {"true": {}, "rule": {}}
    for batch in batches:
        n = len(batch[0])
        true, rule = true_gradients(learner, batch), rule_gradients(learner, batch)
        samples, loss = samples + n, loss + n * true.loss
        for kind, gradients in (("true", true.parameters), ("rule", rule.parameters)):
            for name, gradient in gradients.items():
                total = sums[kind].get(name)
                sums[kind][name] = n * gradient.double() if total is None else total + n * gradient.double()
    both = sums["true"].keys() & sums["rule"].keys()
    inner = sum((sums["true"][name] * sums["rule"][name]).sum().item() for name in sorted(both))
    return loss / samples, inner / samples**2
