"""How far a round's clients move apart, layer by layer, and how much of it their ways back have in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from callbacks.curves import publish
from callbacks.errors import MeasurementError
from lit_fa.functional.alignment import cosine
from lit_fa.functional.drift import mean_pairwise_distance
from lit_fa.layers import WEIGHT_LAYERS, match

Steps = dict[int, dict[str, Tensor]]  # local step to matrix, error and the input's shape
Trace = dict[str, Steps]  # by layer


class ClientDrift(L.Callback):
    """Logs `drift/update/<layer>`, `drift/transport/<layer>`, `drift/cosine/<layer>`, the outer two also `/overall`.

    update: the mean distance between the movements of two of the round's clients, D of `functional.drift`; transport:
    what two clients' matrices make of one error, H there, summed over all local steps of the client whose error it is
    (zero where clients share their feedback, and not logged for the first layer, which sends no error on); cosine: the
    mean between a client's movement and that of all, weighted by samples. Before a measured round its clients are
    trained once more, one after another: it costs a round, and changes nothing.

    Args:
        every_n_rounds: rounds between two measurements, from round zero on.
        transport_steps: local steps at which H is looked at, spread evenly over those of the client that takes most,
            and every client's last step besides; between them H is interpolated, from zero at the first step.
        layers: names or patterns; None: all linear and conv layers.
    """

    def __init__(self, every_n_rounds: int = 10, transport_steps: int = 3, layers: list[str] | None = None):
        """See the class."""
        if every_n_rounds < 1 or transport_steps < 1:
            raise MeasurementError(f"every_n_rounds={every_n_rounds}, transport_steps={transport_steps}: at least 1")
        self.every_n_rounds, self.transport_steps, self.layers = every_n_rounds, transport_steps, layers

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what has no clients, and layers that are not there."""
        if not hasattr(pl_module, "movements"):
            raise MeasurementError("ClientDrift measures a federation: use FederatedClassifier")
        self._chosen(pl_module.network)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        """Measure the round that is about to begin."""
        if batch.number % self.every_n_rounds == 0:
            publish(trainer, pl_module, self.measure(pl_module, batch), monitored=False)

    def measure(self, module: L.LightningModule, batch) -> dict[str, float]:
        """Key to value."""
        if len(batch.clients) < 2:
            raise MeasurementError("drift is between clients, and this round has one: set clients_per_round: 2")
        steps = looked_at(batch.steps, self.transport_steps)
        layers = {name: module.network.get_submodule(name) for name in self._chosen(module.network)}
        moved: list[dict[str, Tensor]] = []
        traces: list[Trace] = []
        movements = module.movements(batch)
        for _ in batch.clients:
            with traced(layers, steps) as trace:
                _, own = next(movements)
            moved.append({name: own[f"network.{name}.weight"].flatten() for name in layers})
            traces.append(trace)
        shares = torch.tensor(batch.sizes, dtype=torch.float64) / sum(batch.sizes)
        return movement_drift(moved, shares) | transport_drift(layers, traces, batch.steps)

    def _chosen(self, network: nn.Module) -> list[str]:
        names = [name for name, m in network.named_modules() if name and isinstance(m, WEIGHT_LAYERS)]
        try:
            return match(self.layers, names) if self.layers else names
        except ValueError as error:
            raise MeasurementError(f"ClientDrift: layers: {error}") from None


def spread(steps: int, most: int) -> list[int]:
    """At most so many of the local steps, without the first, in which all clients' weights are one.

    >>> spread(41, 3), spread(3, 3), spread(1, 3)
    ([1, 20, 40], [1, 2], [])
    """
    later = [*range(1, steps)]
    if len(later) <= most:
        return later
    return sorted({later[round(k * (len(later) - 1) / max(most - 1, 1))] for k in range(most)})


def looked_at(steps: Sequence[int], most: int) -> list[int]:
    """Local steps at which matrices are kept, of clients that take so many steps each.

    >>> looked_at([41, 7], 3)
    [1, 6, 20, 40]
    """
    return sorted({*spread(max(steps), most), *(taken - 1 for taken in steps)})


@contextmanager
def traced(layers: dict[str, nn.Module], steps: list[int]) -> Iterator[Trace]:
    """Within, at these steps, each layer's matrix and error are kept: those that send an error on."""
    trace: Trace = {name: {} for name in layers}
    calls = dict.fromkeys(layers, 0)

    def look(name: str, layer: nn.Module, x: Tensor, out: Tensor) -> None:
        if not out.requires_grad:
            return  # another model that the algorithm looks at
        if calls[name] in steps and x.requires_grad and measurable(layer):
            feedback = getattr(layer, "feedback", None)
            matrix = layer.weight if feedback is None else feedback.matrix(layer.weight)
            kept = trace[name][calls[name]] = {"matrix": matrix.detach().clone()}
            kept["rows"] = torch.tensor(x.shape)
            out.register_hook(lambda error: kept.update(error=error.detach().clone()))
        calls[name] += 1

    hooks = [
        layer.register_forward_hook(lambda m, args, out, n=name: look(n, m, args[0], out))
        for name, layer in layers.items()
    ]
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()


def measurable(layer: nn.Module) -> bool:
    """Linear layers, and two-dimensional convolutions that pad with zeros."""
    if isinstance(layer, nn.Linear):
        return True
    return isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def movement_drift(moved: list[dict[str, Tensor]], shares: Tensor) -> dict[str, float]:
    """D and the cosine with everybody's movement, of each layer and of all together."""
    stacks = {name: torch.stack([own[name] for own in moved]) for name in moved[0]}
    stacks["overall"] = torch.cat([*stacks.values()], 1)
    found = {}
    for name, stack in stacks.items():
        mean = shares.to(stack) @ stack
        found[f"drift/update/{name}"] = mean_pairwise_distance(stack).item()
        found[f"drift/cosine/{name}"] = torch.stack([cosine(own, mean) for own in stack]).nanmean().item()
    return found


def transport_drift(layers: dict[str, nn.Module], traces: list[Trace], local_steps: Sequence[int]) -> dict[str, float]:
    """H of each layer: mean over pairs, sum over the local steps of the first of the two."""
    found = {}
    for name, layer in layers.items():
        pairs = combinations(zip([trace[name] for trace in traces], local_steps, strict=True), 2)
        sums = [summed_apart(layer, one, other, taken) for (one, taken), (other, _) in pairs]
        if sums := [value for value in sums if value is not None]:
            found[f"drift/transport/{name}"] = sum(sums) / len(sums)
    return found


def summed_apart(layer: nn.Module, one: Steps, other: Steps, taken: int) -> float | None:
    """The sum over `taken` steps of what `other`'s matrix makes of `one`'s error; None where no step shows it.

    A client that has taken all its steps keeps the matrix of its last one. At the first step all matrices are equal.
    """
    seen = [step for step, kept in sorted(one.items()) if step and "error" in kept and other]
    if not seen:
        return None
    apart = [sent_apart(layer, one[step], other[min(step, max(other))]) for step in seen]
    return float(np.interp(range(1, taken), [0, *seen], [0.0, *apart]).sum())


def sent_apart(layer: nn.Module, one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """||(M_i - M_j)^T delta_i||: what one client's error would be below the layer less what the other's matrix says."""
    matrix, error = one["matrix"] - other["matrix"], one["error"]
    if isinstance(layer, nn.Linear):
        return torch.linalg.vector_norm(error @ matrix).item()
    shape = torch.Size(one["rows"].tolist())
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return torch.linalg.vector_norm(conv2d_input(shape, matrix, error, *geometry)).item()
