r"""Rules that begin with the error at the logits, written out: backpropagation, feedback alignment, direct feedback.

Letters: a lanes, b rows, i in, o out, c classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lit_fa.federated.apply_update import Movement, Rows
from lit_fa.federated.client_batch import Lanes
from lit_fa.federated.dense import ERRORS, Chain, Dense, NotWritten, Workspace
from lit_fa.federated.round_task import Learner
from lit_fa.functional.criteria import one_hot
from lit_fa.layers.taps import block_key
from lit_fa.rules.base import Batch, LearningRule, Tensors
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment
from lit_fa.rules.feedback_alignment import FeedbackAlignment


class ByError:
    """Rules that begin with the error at the logits; they differ in how it comes to the layers below."""

    def __init__(self, learner: Learner, chain: Chain, lanes: Lanes):
        """See the class."""
        self.layers, self.criterion = chain.layers, ERRORS[learner.criterion]
        self.space = Workspace(lanes.params[chain.layers[0].weight])
        if isinstance(learner.rule, DirectFeedbackAlignment):
            self.carriers = _direct(learner, lanes)
        else:
            self.carriers = [_carrier(layer, lanes) for layer in chain.layers[1:]]
        self.rule = learner.rule

    def __call__(self, batch: Batch, rows: Rows, lanes: Lanes, movement: Movement) -> tuple[Tensor, Tensor]:
        """As `Written` says."""
        x, targets = batch
        values = [x.flatten(2)]
        for number, layer in enumerate(self.layers):
            out = self.space(f"value {number}", *targets.shape, layer.units)
            values.append(layer.output(values[-1], lanes.params, out))
        losses, error = self.criterion(values[-1], targets)
        error.mul_(rows.weights.unsqueeze(-1))
        teacher = self._teacher(error, targets, rows)
        right = values[-1].argmax(-1) == targets
        for number in reversed(range(len(self.layers))):
            layer = self.layers[number]
            layer.activation.gate(error, values[number + 1])
            below = self._below(number, error, teacher, lanes) if number else None
            movement.layer(layer, error, values[number])
            error = below
        return losses, right

    def _below(self, number: int, error: Tensor, teacher: Tensor, lanes: Lanes) -> Tensor:
        """The error (a, b, i) behind the layer below; made before this layer's weights move."""
        out = self.space(f"error {number}", *error.shape[:2], self.layers[number - 1].units)
        return self.carriers[number - 1](error, teacher, lanes.params, out)

    def _teacher(self, error: Tensor, targets: Tensor, rows: Rows) -> Tensor:
        """What direct feedback sends: the error at the logits, or the target."""
        if getattr(self.rule, "teacher", "error") == "error":
            return error
        weights = rows.weights if self.rule.target_reduction == "mean" else rows.valid
        return one_hot(targets, error) * weights.unsqueeze(-1)


Carrier = Callable[[Tensor, Tensor, Tensors, Tensor], Tensor]  # (error, teacher, params, out) to the error below


def _carrier(layer: Dense, lanes: Lanes) -> Carrier:
    """Through the layer's own weights, or its feedback matrix, fixed or made from the weights at every step."""
    if layer.feedback is None:
        return lambda error, _, params, out: torch.bmm(error, params[layer.weight], out=out)
    source, gain = layer.feedback.source, layer.feedback.gain
    stored = lanes.shared.get(f"{layer.weight.removesuffix('weight')}feedback.weight")
    if stored is not None and source.matrix(lanes.params[layer.weight][0], stored) is stored:
        return _through(stored * gain)
    matrix = torch.vmap(source.matrix, (0, None))

    def made(error: Tensor, _: Tensor, params: Tensors, out: Tensor) -> Tensor:
        return torch.bmm(error, matrix(params[layer.weight], stored), out=out).mul_(gain)

    return made


def _direct(learner: Learner, lanes: Lanes) -> list[Carrier]:
    """From the logits straight to every block."""
    own, like = learner.split(lanes.shared).rule, next(iter(lanes.params.values()))
    carriers = [_through(own[f"feedback.{block_key(name)}.weight"].to(like.dtype)) for name in learner.rule.links]
    return [lambda _, teacher, params, out, c=c: c(teacher, teacher, params, out) for c in carriers]


def _through(matrix: Tensor) -> Carrier:
    """All lanes through one matrix (o, i): one product."""

    def carry(error: Tensor, _: Tensor, params: Tensors, out: Tensor) -> Tensor:
        torch.mm(error.flatten(0, 1), matrix.to(error.dtype), out=out.flatten(0, 1))
        return out

    return carry


def check_error_rule(rule: LearningRule, chain: Chain) -> None:
    """Raise `NotWritten` for what `ByError` cannot do."""
    if isinstance(rule, FeedbackAlignment) and (rule.source.evolves or rule.source.trained):
        raise NotWritten(f"the feedback of {rule.source} changes while a client trains")
    if isinstance(rule, DirectFeedbackAlignment) and not chain.is_cut_behind([*rule.links]):
        raise NotWritten("direct feedback does not go to every hidden layer's output")
