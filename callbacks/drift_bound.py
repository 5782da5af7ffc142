"""A bound on the drift of clients from bounded inputs and errors, compared with the drift and with its assumptions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lit_fa.callbacks.curves import publish
from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.probe import learner_of
from lit_fa.functional.criteria import cross_entropy
from lit_fa.functional.drift import DriftBound, drift_bounds
from lit_fa.layers.feedback import weight_of
from lit_fa.layers.hooks import after


@dataclass
class Extremes:
    """Largest norms over the local steps of a client: layer to that of a sample's input, and of its error."""

    inputs: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def merge(self, other: "Extremes") -> None:
        """Set each value to the larger of both."""
        for own, others in ((self.inputs, other.inputs), (self.errors, other.errors)):
            for name, value in others.items():
                own[name] = max(value, own.get(name, 0.0))


class ClientDriftBound(L.Callback):
    r"""Logs, for a network of linear layers, the bound of `functional.drift.drift_bounds`:

    * `drift_bound/ratio/<layer>`: the largest distance between the updates of two clients, divided by the bound;
      `drift_bound/ratio`: the largest of any layer. Above 1 the bound does not hold;
    * `drift_bound/inputs`, `drift_bound/errors`: the largest norm of an input, or of an error, of any sample, layer and
      local step, divided by what the bound assumes. Above 1 the assumption is violated.

    Before a measured round its clients are trained once more, one after another. This costs the time of a round and
    changes no result.

    Args:
        every_n_rounds: rounds between two measurements, from round zero on.

    Raises:
        MeasurementError: a number below one; a run that is not federated, or whose rounds have one client; another
            criterion than `cross_entropy`, algorithm than FedAvg or local optimiser than plain SGD; layers with a
            weight that are not linear.
    """

    def __init__(self, every_n_rounds: int = 10):
        """See the class."""
        if every_n_rounds < 1:
            raise MeasurementError(f"every_n_rounds is at least 1, not {every_n_rounds}")
        self.every_n_rounds = every_n_rounds

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a run that violates the assumptions of the bound.

        Raises:
            MeasurementError: not FedAvg with plain SGD, not cross-entropy, or weights outside linear layers.
        """
        if not hasattr(pl_module, "movements"):
            raise MeasurementError("ClientDriftBound measures federated training: use FederatedClassifier")
        local: Any = pl_module.local
        learner = learner_of(pl_module)
        sgd = local.optimizer.plain and not local.optimizer.weight_decay
        if type(local.algorithm).__name__ != "FedAvg" or not sgd:
            raise MeasurementError("ClientDriftBound is of FedAvg with LocalSGD, without momentum and weight decay")
        if learner.criterion is not cross_entropy:
            raise MeasurementError("ClientDriftBound assumes the errors of criterion: cross_entropy")
        if any(p.ndim > 1 for p in others(learner.network)):
            raise MeasurementError("ClientDriftBound is of networks whose weights are all in linear layers")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the round that is about to begin."""
        if batch.number % self.every_n_rounds == 0:
            publish(trainer, pl_module, self.measure(pl_module, batch), monitored=False)

    def measure(self, module: Any, batch: Any) -> dict[str, float]:
        """The logged values of a round, by key.

        Raises:
            MeasurementError: the round has a single client.
        """
        if len(batch.clients) < 2:
            raise MeasurementError("drift is between clients, and this round has one: set clients_per_round: 2")
        layers: dict[str, nn.Module] = {
            name: m for name, m in module.network.named_modules() if isinstance(m, nn.Linear)
        }
        start = {name: weight_of(layer).detach().clone() for name, layer in layers.items()}
        extremes, movements = Extremes(), module.movements(batch)
        updates: list[dict[str, Tensor]] = []
        for _ in batch.clients:
            with watched(layers) as seen:
                _, update = next(movements)
            extremes.merge(seen)
            own = module.learner.split(update).network
            updates.append({name: own[f"{name}.weight"] for name in layers})
        rate = module.round_task(batch).lr
        ordered = [start[name] for name in extremes.inputs]
        bounds = dict(zip(extremes.inputs, drift_bounds(ordered), strict=True))
        return compared(bounds, extremes, updates, batch.steps, rate)


def compared(
    bounds: dict[str, DriftBound],
    extremes: Extremes,
    updates: list[dict[str, Tensor]],
    steps: Sequence[int],
    rate: float,
) -> dict[str, float]:
    """The logged values.

    Args:
        bounds: layer to its bound for one step at rate 1, from the first layer to the last.
        extremes: of all clients.
        updates: for each client, layer to the change of its weight.
        steps: local steps of each client.
        rate: of the local steps.
    """
    values = {}
    for name, bound in bounds.items():
        pairs = combinations(zip(updates, steps, strict=True), 2)
        ratios = [
            torch.linalg.norm((one[name] - other[name]).double()).item() / (rate * (k + m) * bound.step)
            for (one, k), (other, m) in pairs
        ]
        values[f"drift_bound/ratio/{name}"] = max(ratios)
    values["drift_bound/ratio"] = max(values.values())
    values["drift_bound/inputs"] = max(extremes.inputs[name] / bound.inputs for name, bound in bounds.items())
    values["drift_bound/errors"] = max(extremes.errors[name] / bound.errors for name, bound in bounds.items())
    return values


@contextmanager
def watched(layers: dict[str, nn.Module]) -> Iterator[Extremes]:
    """Within the block, record the largest input and error of each layer."""
    seen = Extremes()

    def update(norms: dict[str, float], name: str, rows: Tensor, factor: float) -> None:
        norms[name] = max(factor * torch.linalg.norm(rows.detach(), dim=-1).max().item(), norms.get(name, 0.0))

    def record(name: str, _layer: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> None:
        if out.requires_grad:
            update(seen.inputs, name, inputs[0], 1.0)
            # the criterion divides an error by the number of samples
            out.register_hook(lambda error: update(seen.errors, name, error, float(len(error))))

    hooks = [after(layer, partial(record, n)) for n, layer in layers.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def others(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that belong to no linear layer."""
    own = {id(p) for m in network.modules() if isinstance(m, nn.Linear) for p in m.parameters()}
    return [p for p in network.parameters() if id(p) not in own]
