r"""The conserved potential of every hidden neuron, compared with its exact value under SGD with finite steps.

Formulas and source: `lit_fa.functional.conservation`. The comparison distinguishes drift that is caused by the finite
step size from a law that does not hold.
"""

from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_fa.callbacks.conserving_neurons import Neurons, find_neurons
from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.forward_trace import trace
from lit_fa.callbacks.probe import Batch, Periodic, learner_of
from lit_fa.functional.conservation import (
    LAWS,
    Law,
    column_sums,
    drift,
    incoming,
    outgoing,
    path_step,
    potential,
    row_squares,
)
from lit_fa.layers.feedback import weight_of
from lit_fa.rules.base import Does

QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}


class ConservationPotential(Periodic):
    r"""Logs, before the first step and then once per epoch, for the neurons j of each hidden layer:

    * `conserve/<layer>/potential`: $\sum_j C_j$; `/normalised`: divided by its first value, 1 in theory;
    * `/drift`: $(\sum_j C_j - \sum_j C_j(0)) / |\sum_j C_j(0)|$;
    * `/worst_neuron`: $\max_j |C_j - C_j(0)|$ over the mean of $|C_j(0)|$;
    * `/predicted`: the exact value of `normalised` after the steps that were taken;
    * `/residual`: $\max_j$ |value - exact prediction|; `/residual_relative`: over the mean of $|C_j(0)|$;
    * `conserve/potential`, `/normalised`, `/drift`, `/predicted` of all hidden layers together, and
      `conserve/worst_neuron`, `/residual`, `/residual_relative`, the largest of any layer.

    The law `sign` has no exact prediction; its `predicted` and `residual` are those of the path law on the same run.
    A neuron of a conv layer is a channel. If a normalisation follows the layer, the neuron is its output.

    Args:
        law: `auto`: the law that rule and feedback imply, for each layer; or feedback, balance, sign, kolen_pollack or
            path for all layers, also under a rule that does not conserve it.
        every_n_steps: optimiser steps between two values; 0: at the end of every epoch.
        per_neuron: also log, when training ends, quantiles over the neurons of the relative drift
            $(C_j - C_j(0)) / \mathrm{mean}|C(0)|$ as `conserve/<layer>/neuron_drift_<min|q25|median|q75|max>`.
        signs: also log, in percent of all hidden neurons, `conserve/nonnegative` ($C_j \ge 0$: where the law holds,
            such a neuron stays aligned) and `conserve/aligned` ($\langle W_{i+1}[:,j], B_{i+1}[:,j]\rangle \ge 0$).

    Attributes:
        broken: one sentence for each violation of a law in this run; each is also a warning.
        neurons: after the first batch, layer to `Neurons`.
        initial: layer to (u,), the potentials before the first step.

    The values are sums over the steps of a run, so one batch does not determine them and there is no `measure`; a
    notebook uses the formulas in `lit_fa.functional.conservation`.

    Raises:
        MeasurementError: an unknown law.
    """

    needs_whole_module: ClassVar[bool] = True  # refused where parameters are divided among ranks
    needs_every_batch: ClassVar[bool] = False  # only `on_before_optimizer_step`

    def __init__(
        self, law: Law | Literal["auto"] = "auto", every_n_steps: int = 0, per_neuron: bool = True, signs: bool = False
    ):
        """See the class."""
        super().__init__(every_n_steps)
        if law not in ("auto", *LAWS):
            raise MeasurementError(f"law is auto or one of {', '.join(LAWS)}, not '{law}'")
        self.law, self.per_neuron, self.signs = law, per_neuron, signs
        self.broken: list[str] = []
        self.neurons: dict[str, Neurons] = {}
        self.initial: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}  # initial potential of the exact identity
        self.steps: dict[str, Tensor] = {}  # sum of the changes by all steps
        self.path: dict[str, Tensor] = {}  # integral of <B, dW>

    def prepare(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Find the neurons, warn of everything that violates their laws, and store the initial potentials."""
        learner = learner_of(module)
        forward = trace(learner.network, batch[0])
        layers, broken = find_neurons(learner.network, learner.rule, forward, self.law)
        self.neurons = {neurons.name: neurons for neurons in layers}
        self.broken = broken + disturbances(trainer, module, layers)
        for sentence in self.broken:
            rank_zero_warn(f"conservation: {sentence}")
        for name, neurons in self.neurons.items():
            zeros = torch.zeros(neurons.units, dtype=torch.float64, device=neurons.scale.device)
            for state in (self.steps, self.path, self.initial, self.anchor):
                if name in state:  # from a checkpoint
                    state[name] = state[name].to(zeros.device)
            self.steps.setdefault(name, zeros.clone())
            self.path.setdefault(name, zeros)
            self.initial.setdefault(name, self.potential(name))
            self.anchor.setdefault(name, self.identity(name))

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the change of each neuron's potential by this step."""
        group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for name, n in self.neurons.items():
            weight = weight_of(n.reader)
            if n.scale.grad is None or weight.grad is None:
                continue
            lr, units = float(group_of[id(n.scale)]["lr"]), n.units
            squares = row_squares(n.scale.grad, dtype=None)
            if n.shift is not None and n.shift.grad is not None:
                squares += row_squares(n.shift.grad, dtype=None)
            own = n.matrix_gradient() if n.law == "kolen_pollack" else weight.grad
            columns = column_sums(own.square(), units) if n.law in ("balance", "kolen_pollack") else None
            self.steps[name] += drift(n.law, lr, squares, columns)
            if n.law in ("path", "sign"):
                rate = float(group_of[id(weight)]["lr"])
                self.path[name] = self.path[name] + path_step(rate, n.matrix(), weight.grad, units)

    def potential(self, name: str) -> Tensor:
        """The current C_j of the layer's neurons, (u,) float64."""
        n = self.neurons[name]
        return self.path_potential(name) if n.law == "path" else potential(_outgoing(n), incoming(n.scale, n.shift))

    def path_potential(self, name: str) -> Tensor:
        """The potential of the path law, (u,) float64: the integral of <B, dW> so far minus the incoming part."""
        n = self.neurons[name]
        return potential(self.path[name], incoming(n.scale, n.shift))

    def identity(self, name: str) -> Tensor:
        """The potential that has an exact prediction, (u,) float64."""
        return self.path_potential(name) if self.neurons[name].law == "sign" else self.potential(name)

    @torch.no_grad()
    def observe(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        """The logged values, by key."""
        values: dict[str, float] = {}
        whole: dict[str, float] = {}
        summed = torch.zeros(4, dtype=torch.float64)
        for name in self.neurons:
            initial, anchor = self.initial[name], self.anchor[name]
            now, predicted = self.potential(name), anchor + self.steps[name]
            sums = torch.stack([now.sum(), initial.sum(), predicted.sum(), anchor.sum()]).cpu()
            residual = (self.identity(name) - predicted).abs().max().item()
            peaks = {
                "worst_neuron": ((now - initial).abs().max() / initial.abs().mean()).item(),
                "residual": residual,
                "residual_relative": residual / anchor.abs().mean().item(),
            }
            values |= {f"conserve/{name}/{key}": v for key, v in (_ratios(sums) | peaks).items()}
            whole = {key: max(value, whole.get(key, 0.0)) for key, value in peaks.items()}
            summed += sums
        if self.neurons:
            values |= {f"conserve/{key}": value for key, value in (_ratios(summed) | whole).items()}
        return values | (self._shares() if self.signs and self.neurons else {})

    def _shares(self) -> dict[str, float]:
        """Percentages of the neurons with a potential, and with an outgoing part, that is not negative."""
        potentials = torch.cat([self.potential(name) for name in self.neurons])
        parts = torch.cat([_outgoing(neurons) for neurons in self.neurons.values()])
        shares = {"nonnegative": potentials, "aligned": parts}
        return {f"conserve/{key}": 100 * (part >= 0).double().mean().item() for key, part in shares.items()}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the quantiles over the neurons."""
        if not self.per_neuron:
            return
        self.be_ready(trainer, pl_module)
        from lit_fa.callbacks.curves import publish

        values: dict[str, float] = {}
        for name, initial in self.initial.items():
            relative = (self.potential(name) - initial) / initial.abs().mean()
            at = torch.tensor([*QUANTILES.values()], dtype=relative.dtype, device=relative.device)
            marks = zip(QUANTILES, relative.quantile(at).tolist(), strict=True)
            values |= {f"conserve/{name}/neuron_drift_{mark}": value for mark, value in marks}
        publish(trainer, pl_module, values, monitored=False)

    def state_dict(self) -> dict[str, Any]:
        """Initial potentials and sums, with which a resumed run continues."""
        return {key: getattr(self, key) for key in ("initial", "anchor", "steps", "path")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore initial potentials and sums."""
        for key, tensors in state.items():
            setattr(self, key, dict(tensors))


def disturbances(trainer: L.Trainer, module: Any, layers: list[Neurons]) -> list[str]:
    """One sentence for each violation of the laws outside the network: optimiser, clipping, rule, precision."""
    reasons: list[str] = []
    for optimizer in trainer.optimizers:
        reasons += _optimizer_breaks(optimizer, layers)
    if getattr(module, "clip", None) is not None and module.clip_by == "value":
        reasons.append("clipping by value bends the gradient (clipping by norm only shortens the step)")
    if Does.EDITS in module.rule.does:
        reasons.append(f"{type(module.rule).__name__} edits the gradients")
    if str(trainer.precision).startswith(("16", "bf16", "transformer")):
        reasons.append(f"precision {trainer.precision} rounds more than the steps move: use 32-true or 64-true")
    return reasons if layers else []


def _optimizer_breaks(optimizer: torch.optim.Optimizer, layers: list[Neurons]) -> list[str]:
    if type(optimizer) is not torch.optim.SGD:
        return [f"{type(optimizer).__name__} is not plain SGD"]
    options = ("momentum", "nesterov", "weight_decay", "dampening", "maximize")
    used = {p for n in layers for p in (n.scale, n.shift, *n.reader.parameters()) if p is not None}
    groups = [group for group in optimizer.param_groups if used.intersection(group["params"])]
    reasons = [f"SGD has {o} {group[o]}" for o in options for group in groups if group[o]]
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    for n in layers:
        if len({rates.get(p) for p in (n.scale, n.shift, weight_of(n.reader)) if p is not None}) > 1:
            reasons.append(f"{n.name} and the layer that reads it learn at different rates")
    return list(dict.fromkeys(reasons))


def _outgoing(n: Neurons) -> Tensor:
    weight = weight_of(n.reader)
    if n.law == "balance":
        return outgoing(weight, weight, n.units) / 2
    if n.law == "kolen_pollack":
        return outgoing(n.matrix(), n.matrix(), n.units) / 2
    return outgoing(weight, n.matrix(), n.units)


def _ratios(sums: Tensor) -> dict[str, float]:
    """Ratios of the sums (4,): current potential, initial potential, predicted value, initial predicted value."""
    now, initial, predicted, anchor = sums
    shares = {"potential": now, "normalised": now / initial, "drift": (now - initial) / initial.abs()}
    return {key: value.item() for key, value in (shares | {"predicted": predicted / anchor}).items()}
