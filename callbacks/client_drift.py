"""How far the clients of a round diverge in each layer, and how much their backward matrices contribute to it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from lit_fa.callbacks.curves import publish
from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.probe import learner_of
from lit_fa.functional.alignment import cosine
from lit_fa.functional.drift import mean_pairwise_distance
from lit_fa.layers import WEIGHT_LAYERS, match
from lit_fa.layers.feedback import weight_of
from lit_fa.layers.hooks import after

Steps = dict[int, dict[str, Tensor]]  # local step to matrix, error and the input's shape
Trace = dict[str, Steps]  # by layer


class ClientDrift(L.Callback):
    """Logs `drift/update/<layer>`, `drift/transport/<layer>` and `drift/cosine/<layer>`.

    * update (also `/overall`): mean distance between the updates of two clients of the round, D of `functional.drift`;
    * transport: distance between the errors that the backward matrices of two clients make of the same error, H of
      `functional.drift`, summed over all local steps of the client whose error it is. It is zero if the clients share
      their feedback, and not logged for the first layer, which sends no error to a layer below;
    * cosine (also `/overall`): mean cosine between a client's update and the average of all, weighted by samples.

    Before a measured round its clients are trained once more, one after another. This costs the time of a round and
    changes no result.

    Args:
        every_n_rounds: rounds between two measurements, from round zero on.
        transport_steps: number of local steps at which H is computed, evenly spaced over the steps of the client that
            takes most; every client's last step is added. Between them H is interpolated, from zero at the first step.
        layers: names or patterns; None: all linear and conv layers.

    Raises:
        MeasurementError: numbers below one, unknown layers, a module that is not federated, or a round of one client.
    """

    def __init__(self, every_n_rounds: int = 10, transport_steps: int = 3, layers: list[str] | None = None):
        """See the class."""
        if every_n_rounds < 1 or transport_steps < 1:
            raise MeasurementError(f"every_n_rounds={every_n_rounds}, transport_steps={transport_steps}: at least 1")
        self.every_n_rounds, self.transport_steps, self.layers = every_n_rounds, transport_steps, layers

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse modules without clients and unknown layers.

        Raises:
            MeasurementError: the module has no clients, or the network has no such layer.
        """
        if not hasattr(pl_module, "movements"):
            raise MeasurementError("ClientDrift measures federated training: use FederatedClassifier")
        self._chosen(learner_of(pl_module).network)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the round that is about to begin."""
        if batch.number % self.every_n_rounds == 0:
            publish(trainer, pl_module, self.measure(pl_module, batch), monitored=False)

    def measure(self, module: Any, batch: Any) -> dict[str, float]:
        """The logged values of a round, by key.

        Args:
            module: a `FederatedClassifier`.
            batch: a round of its data module.

        Raises:
            MeasurementError: the round has a single client.
        """
        if len(batch.clients) < 2:
            raise MeasurementError("drift is between clients, and this round has one: set clients_per_round: 2")
        steps = measured_steps(batch.steps, self.transport_steps)
        layers = {name: module.network.get_submodule(name) for name in self._chosen(module.network)}
        updates: list[dict[str, Tensor]] = []
        traces: list[Trace] = []
        movements = module.movements(batch)
        for _ in batch.clients:
            with traced(layers, steps) as trace:
                _, update = next(movements)
            own = module.learner.split(update).network
            updates.append({name: own[f"{name}.weight"].flatten() for name in layers})
            traces.append(trace)
        shares = torch.tensor(batch.sizes, dtype=torch.float64) / sum(batch.sizes)
        return update_drift(updates, shares) | transport_drift(layers, traces, batch.steps)

    def _chosen(self, network: nn.Module) -> list[str]:
        names = [name for name, m in network.named_modules() if name and isinstance(m, WEIGHT_LAYERS)]
        try:
            return match(self.layers, names) if self.layers is not None else names
        except ValueError as error:
            raise MeasurementError(f"ClientDrift: layers: {error}") from None


def spread(steps: int, most: int) -> list[int]:
    """At most `most` of the local steps, evenly spaced, without the first step, at which all weights are equal.

    >>> spread(41, 3), spread(3, 3), spread(1, 3)
    ([1, 21, 40], [1, 2], [])
    """
    later = [*range(1, steps)]
    if len(later) <= most:
        return later
    return sorted({later[round(k * (len(later) - 1) / max(most - 1, 1))] for k in range(most)})


def measured_steps(steps: Sequence[int], most: int) -> list[int]:
    """Local steps at which matrices are recorded, for clients that take `steps` steps.

    >>> measured_steps([41, 7], 3)
    [1, 6, 21, 40]
    """
    return sorted({*spread(max(steps), most), *(taken - 1 for taken in steps)})


@contextmanager
def traced(layers: dict[str, nn.Module], steps: list[int]) -> Iterator[Trace]:
    """Within the block, record at these steps matrix and error of each layer whose input needs a gradient."""
    trace: Trace = {name: {} for name in layers}
    calls = dict.fromkeys(layers, 0)

    def record(name: str, layer: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> None:
        if not out.requires_grad:
            return  # another model that the algorithm evaluates
        x = inputs[0]
        if calls[name] in steps and x.requires_grad and measurable(layer):
            feedback = getattr(layer, "feedback", None)
            weight = weight_of(layer)
            matrix = weight if feedback is None else feedback.matrix(weight)
            step = trace[name][calls[name]] = {"matrix": matrix.detach().clone(), "shape": torch.tensor(x.shape)}
            out.register_hook(lambda error: step.update(error=error.detach().clone()))
        calls[name] += 1

    hooks = [after(layer, partial(record, name)) for name, layer in layers.items()]
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()


def measurable(layer: nn.Module) -> bool:
    """Whether H is defined for the layer: linear layers, and two-dimensional convolutions with zero padding."""
    if isinstance(layer, nn.Linear):
        return True
    return isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def update_drift(updates: list[dict[str, Tensor]], shares: Tensor) -> dict[str, float]:
    """D, and the cosine with the average update, for each layer and for all layers together.

    Args:
        updates: for each client, layer to flattened update.
        shares: (k,) share of samples of each client.
    """
    stacks = {name: torch.stack([update[name] for update in updates]) for name in updates[0]}
    stacks["overall"] = torch.cat([*stacks.values()], 1)
    values = {}
    for name, stack in stacks.items():
        mean = shares.to(stack) @ stack
        values[f"drift/update/{name}"] = mean_pairwise_distance(stack).item()
        values[f"drift/cosine/{name}"] = torch.stack([cosine(update, mean) for update in stack]).nanmean().item()
    return values


def transport_drift(layers: dict[str, nn.Module], traces: list[Trace], local_steps: Sequence[int]) -> dict[str, float]:
    """H of each layer: mean over pairs of clients, sum over the local steps of the first client of a pair."""
    values = {}
    for name, layer in layers.items():
        pairs = combinations(zip([trace[name] for trace in traces], local_steps, strict=True), 2)
        sums = [summed_distance(layer, one, other, number) for (one, number), (other, _) in pairs]
        if sums := [value for value in sums if value is not None]:
            values[f"drift/transport/{name}"] = sum(sums) / len(sums)
    return values


def summed_distance(layer: nn.Module, one: Steps, other: Steps, number: int) -> float | None:
    """The sum of `error_distance` over `number` local steps; None if it was measured at no step.

    A client that has taken all its steps keeps its last matrix. At the first step all matrices are equal.
    """
    measured = [step for step, tensors in sorted(one.items()) if step and "error" in tensors and other]
    if not measured:
        return None
    distances = [error_distance(layer, one[step], other[min(step, max(other))]) for step in measured]
    return float(np.interp(range(1, number), [0, *measured], [0.0, *distances]).sum())


def error_distance(layer: nn.Module, one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """||(M_i - M_j)^T delta_i||: distance between one client's error below the layer and the same error through M_j."""
    matrix, error = one["matrix"] - other["matrix"], one["error"]
    if isinstance(layer, nn.Linear):
        return torch.linalg.vector_norm(error @ matrix).item()
    assert isinstance(layer, nn.Conv2d)  # by `measurable`
    shape: Any = one["shape"].tolist()
    geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return torch.linalg.vector_norm(conv2d_input(shape, matrix, error, *geometry)).item()
