r"""Three checks of what an alignment angle means: the update's scale, the reference's noise, and the use of alignment.

An angle ignores the length of the update, compares with a gradient that is itself an estimate from a few samples, and
does not say whether a well-aligned layer lowers the loss. (After the questions of arXiv 2606.21126, of which we know
the abstract only; the formulas are ours.) For a layer with weight W, update $G$ of the rule and gradient $g$ of
backprop, on the halves A and B of a batch:

* scale: $\log_{10} \|G\| / \|g\|$. Zero is backprop's length; a drift over training is an unstable scale.
* ceiling: with $c = \cos(g_A, g_B)$, the batch's gradient has reliability $r = 2c / (1 + c)$ (Spearman-Brown), and the
  gradient of the whole distribution is at about $\arccos \sqrt r$ to it. No angle below that can be measured.
* utility: $[L_B(W) - L_B(W - \epsilon G_A)] / [L_B(W) - L_B(W - \epsilon' g_A)]$, both steps of length
  $\eta \|W\|$, in this layer alone. One is backprop's own use of the step; below zero the layer raises the loss.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.gradient_alignment import rule_gradients, true_gradients
from lit_fa.callbacks.probe import Batch, Probe
from lit_fa.functional.alignment import cosine
from lit_fa.layers import exact_layers, observing, true_gradient
from lit_fa.layers.factored import dense_weights
from lit_fa.rules.learner import Learner


class AlignmentAudit(Probe):
    """Logs, for each layer with a weight, on the probe batch:

    * `audit/log_scale/<layer>`: see the module. A table's metric with `at: max_abs` is its largest deviation;
    * `audit/ceiling/<layer>`, in degrees; 90 if the two halves have no common direction;
    * `audit/utility/<layer>`: not logged for factored layers, whose dense weight is no parameter. Nan if backprop's own
      step does not lower the loss of the other half;
    * `.../inexact` of each: the mean over the layers whose update is not exact by construction and whose value is
      defined; nan if none is, and not logged if the updates of all layers are exact.

    With BatchNorm the two halves have batch statistics of their own.

    Args:
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.
        batch: largest number of samples in the probe batch.
        step: length of a step, as a fraction of the weight's norm.

    Raises:
        MeasurementError: a step that is not above zero, or a probe batch of fewer than 4 samples.
    """

    def __init__(self, every_n_steps: int = 0, batch: int = 256, step: float = 1e-3):
        """See the class."""
        super().__init__(every_n_steps, batch)
        if not 0 < step < math.inf:
            raise MeasurementError(f"step is a fraction of the weight's norm above 0, not {step}")
        if batch < 4:
            raise MeasurementError(
                f"each half of the probe batch has at least 2 samples: batch is 4 or more, not {batch}"
            )
        self.step = step

    def measure(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """The three numbers of every layer, by key.

        Raises:
            MeasurementError: a batch of fewer than 4 samples.
        """
        if len(batch[1]) < 4:
            raise MeasurementError(f"each half of the batch has at least 2 samples; {len(batch[1])} are too few")
        with dense_weights(learner.network):
            rule, true = rule_gradients(learner, batch).weights, true_gradients(learner, batch).weights
            halves = [true_gradients(learner, half).weights for half in _halves(batch)]
            exact = exact_layers(learner.network, learner.rule.cuts, batch[0])
        names = [name for name in rule if name in true]
        scales = {name: log_scale(rule[name], true[name]) for name in names}
        ceilings = {name: ceiling(*(half[name] for half in halves)) for name in names}
        inexact = set(names) - exact
        return {
            **_named("audit/log_scale", scales, inexact),
            **_named("audit/ceiling", ceilings, inexact),
            **_named("audit/utility", self._utilities(learner, batch), inexact),
        }

    def _utilities(self, learner: Learner, batch: Batch) -> dict[str, float]:
        first, second = _halves(batch)
        rule, true = rule_gradients(learner, first).weights, true_gradients(learner, first).weights
        weights = dict(learner.network.named_parameters())
        before = _loss(learner, second)
        utilities = {}
        for name in (name for name in rule if name in true and f"{name}.weight" in weights):
            gains = []
            for direction in (rule[name], true[name]):
                with stepped(weights[f"{name}.weight"], direction, self.step):
                    gains.append(before - _loss(learner, second))
            utilities[name] = gains[0] / gains[1] if gains[1] > 0 else math.nan
        return utilities


def log_scale(update: Tensor, gradient: Tensor) -> float:
    """The decimal logarithm of ||update|| / ||gradient||; nan if one of them is zero."""
    norms = update.norm().item(), gradient.norm().item()
    # The quotient of two norms may be too small for a float, or 0 if the second is infinite.
    return math.log10(norms[0]) - math.log10(norms[1]) if min(norms) > 0 else math.nan


def ceiling(first: Tensor, second: Tensor) -> float:
    """The angle in degrees between the mean of two half-batch gradients and the gradient that both estimate."""
    same = cosine(first, second).item()
    if math.isnan(same):
        return math.nan
    reliability = max(2 * same / (1 + same), 0.0) if same > -1 else 0.0
    return math.degrees(math.acos(min(math.sqrt(reliability), 1.0)))


@contextmanager
def stepped(weight: Tensor, direction: Tensor, step: float) -> Iterator[None]:
    """Inside, the weight is one step of length `step` ||weight|| along -direction; afterwards it has its old bits."""
    before, length = weight.detach().clone(), direction.norm()
    with torch.no_grad():
        if length > 0:
            weight.sub_(direction * (step * before.norm() / length))
        try:
            yield
        finally:
            weight.copy_(before)


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    inputs, targets = batch
    middle = len(targets) // 2
    return (inputs[:middle], targets[:middle]), (inputs[middle : 2 * middle], targets[middle : 2 * middle])


def _loss(learner: Learner, batch: Batch) -> float:
    network, (inputs, targets) = learner.network, batch
    with observing(network), true_gradient(network), torch.no_grad():
        return learner.criterion(network(inputs), targets).item()


def _named(kind: str, values: dict[str, float], inexact: set[str]) -> dict[str, float]:
    """The values by key, and the mean of those of the layers in `inexact` that are not nan; nan if all of them are."""
    of_inexact = [value for name, value in values.items() if name in inexact]
    counted = [value for value in of_inexact if not math.isnan(value)]
    mean = {f"{kind}/inexact": sum(counted) / len(counted) if counted else math.nan} if of_inexact else {}
    return {f"{kind}/{name}": value for name, value in sorted(values.items())} | mean
