"""The angle between a rule's update and the gradient of backpropagation on the same batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_fa.callbacks.probe import Batch, Probe
from lit_fa.functional.alignment import angle, sample_angle
from lit_fa.functional.svd_factors import Factors, effective_update
from lit_fa.layers import WEIGHT_LAYERS, exact_layers, feedback_parameters, observing, true_gradient
from lit_fa.layers.factored import FactoredLayer, dense_weights, factored_layers
from lit_fa.rules.learner import Learner


class GradientAlignment(Probe):
    """Logs, in degrees (0: the direction of backprop), on the probe batch:

    * `align/gradient/<layer>`: angle of the layer's weight update, over the whole batch;
    * `align/delta/<layer>`: angle of the error at the layer's output, mean over the samples. Not logged for layers that
      run more than once in a forward pass;
    * `align/gradient/inexact`, `align/delta/inexact`: the mean of these angles over the layers whose update is not
      exact by construction (see `layers.exact`). The head, which is exact under nearly every rule, is therefore not
      included. The value is 0 if every layer is exact, as under backpropagation;
    * `align/effective/<layer>` and `/overall`, for factored layers: angle of the change of the dense weight that the
      gradients of U, s and V cause, for each layer and for all together. (The angles above are those of the gradient
      of the dense weight.) No factored layer is exact.

    Both gradients are computed with the same dropout masks and batch statistics, those of one training step.

    Args:
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.
        batch: largest number of samples in the probe batch.
    """

    def __init__(self, every_n_steps: int = 0, batch: int = 256):
        """See the class."""
        super().__init__(every_n_steps, batch)

    def measure(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """The angles, by key."""
        with dense_weights(learner.network):
            rule, true = rule_gradients(learner, batch), true_gradients(learner, batch)
            exact = exact_layers(learner.network, learner.rule.cuts, batch[0])
        weights = {n: (g, true.weights[n]) for n, g in rule.weights.items() if n in true.weights}
        deltas = {n: (d, true.deltas[n]) for n, d in rule.deltas.items() if n in true.deltas}
        updates = {name: angle(*pair).item() for name, pair in weights.items()}
        same = {name: pair for name, pair in deltas.items() if pair[0].shape == pair[1].shape}
        errors = {name: sample_angle(*pair).item() for name, pair in same.items()}
        inexact = updates.keys() - exact
        values = _named("align/gradient", updates, inexact) | _named("align/delta", errors, inexact)
        return values | _effective(learner, batch, true.weights)


def _named(kind: str, angles: dict[str, float], inexact: set[str]) -> dict[str, float]:
    """The angles by key, and their mean over the layers in `inexact`, without those whose angle is nan."""
    values = {f"{kind}/{name}": value for name, value in sorted(angles.items())}
    counted = [value for name, value in angles.items() if name in inexact]
    if not inexact and angles:
        values[f"{kind}/inexact"] = 0.0
    elif counted:
        values[f"{kind}/inexact"] = torch.tensor(counted, dtype=torch.float64).nanmean().item()
    return values


def _effective(learner: Learner, batch: Batch, true: dict[str, Tensor]) -> dict[str, float]:
    layers = factored_layers(learner.network)
    if not layers:
        return {}
    grads = rule_gradients(learner, batch).parameters
    updates = {}
    for name, layer in layers.items():
        gradients = [grads[f"{name}.{side}"] for side in Factors._fields if f"{name}.{side}" in grads]
        if len(gradients) == 3 and name in true:
            factors = Factors(*(factor.detach() for factor in layer.factors))
            updates[name] = effective_update(factors, Factors(*gradients), layer.shape)
    values = {f"align/effective/{name}": angle(update, true[name]).item() for name, update in updates.items()}
    if not updates:
        return values
    whole, gradient = (torch.cat([t.flatten() for t in s]) for s in (updates.values(), (true[n] for n in updates)))
    return values | {"align/effective/overall": angle(whole, gradient).item()}


@dataclass(frozen=True)
class Gradients:
    """Loss and gradients of one backward pass.

    Attributes:
        loss: of the batch.
        parameters: name to gradient, for every parameter that receives one.
        weights: layer to the gradient of its weight.
        deltas: layer to (n, ...), the gradient at its output.
    """

    loss: float
    parameters: dict[str, Tensor]
    weights: dict[str, Tensor]
    deltas: dict[str, Tensor]


def rule_gradients(learner: Learner, batch: Batch) -> Gradients:
    """The update that the rule prescribes for `batch`; the network's state is not changed."""
    rule, network, criterion = learner.rule, learner.network, learner.criterion
    return _gradients(network, lambda: rule.surrogate(network, batch, criterion).value)


def true_gradients(learner: Learner, batch: Batch) -> Gradients:
    """The gradient of the criterion on `batch` by backpropagation through the same network."""
    network, (inputs, targets) = learner.network, batch
    with true_gradient(network):
        return _gradients(network, lambda: learner.criterion(network(inputs), targets))


def _gradients(network: nn.Module, scalar: Callable[[], Tensor]) -> Gradients:
    feedback = {id(p) for p in feedback_parameters(network)}
    params: dict[str, Tensor] = {
        n: p for n, p in network.named_parameters() if p.requires_grad and id(p) not in feedback
    }
    outputs: dict[str, list[Tensor]] = {}

    def keep(name: str, output: Tensor) -> Tensor:
        outputs.setdefault(name, []).append(output)
        return output.clone()  # an in-place activation after the layer must not change the stored output

    layers = {n: m for n, m in network.named_modules() if isinstance(m, (*WEIGHT_LAYERS, FactoredLayer))}
    for name, layer in layers.items():
        if isinstance(layer, FactoredLayer) and layer.dense is not None:
            params[f"{name}.weight"] = layer.dense
    hooks = [
        m.register_forward_hook(lambda _m, _a, out, n=n: keep(n, out), prepend=True)  # before a tap cuts
        for n, m in layers.items()
    ]
    try:
        with observing(network), torch.enable_grad():
            value = scalar()
            once = {n: out[0] for n, out in outputs.items() if len(out) == 1 and out[0].requires_grad}
            grads = torch.autograd.grad(value, [*params.values(), *once.values()], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    named = dict(zip(params, grads, strict=False))
    reached = {n: g.detach() for n, g in named.items() if g is not None}
    weights = {n: reached[f"{n}.weight"] for n in layers if f"{n}.weight" in reached}
    deltas = zip(once, grads[len(params) :], strict=True)
    return Gradients(value.item(), reached, weights, {n: g.detach() for n, g in deltas if g is not None})
