"""Ranks, energy and orthogonality of factored layers."""

import lightning as L
import torch

from lit_fa.callbacks.probe import Batch, Periodic, learner_of
from lit_fa.functional.svd_factors import full_rank, hoyer, orthogonality
from lit_fa.layers.factored import factored_layers
from lit_fa.rules.learner import Learner


class FactorSpectrum(Periodic):
    r"""Logs, for every factored layer:

    * `rank/<layer>`: number of columns that are not pruned; `rank/overall`: their sum, in percent of the full ranks;
    * `factors/energy/<layer>`: $\sum s^2$ divided by its value at the first pruning (before that: the initial value);
    * `factors/hoyer/<layer>`: $\lVert s\rVert_1 / \lVert s\rVert_2$ divided by $\sqrt r$; 1 if all values are equal;
    * `factors/orthogonality/<layer>`: $\lVert U^\top U - I\rVert_F^2 + \lVert V^\top V - I\rVert_F^2$, and
      `factors/orthogonality`, the largest of any layer.

    Args:
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.
    """

    @torch.no_grad()
    def measure(self, learner: Learner, batch: Batch | None = None) -> dict[str, float]:
        """The logged values, by key; none for a network without factored layers."""
        layers = factored_layers(learner.network)
        values: dict[str, float] = {}
        errors: list[float] = []
        for name, layer in layers.items():
            errors.append((orthogonality(layer.U) + orthogonality(layer.V)).item())
            values[f"rank/{name}"] = float(layer.rank)
            values[f"factors/energy/{name}"] = (layer.s.double().square().sum() / layer.energy).item()
            values[f"factors/hoyer/{name}"] = (hoyer(layer.s) / layer.rank**0.5).item()
            values[f"factors/orthogonality/{name}"] = errors[-1]
        if layers:
            full = sum(full_rank(layer.shape) for layer in layers.values())
            values["rank/overall"] = 100 * sum(layer.rank for layer in layers.values()) / full
            values["factors/orthogonality"] = max(errors)
        return values

    def observe(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        """As `measure`, which needs no batch."""
        return self.measure(learner_of(module))
