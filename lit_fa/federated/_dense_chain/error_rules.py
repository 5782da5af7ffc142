r"""Rules that propagate the error at the logits: backpropagation, feedback alignment, direct feedback alignment.

Letters: a active clients, b rows, i in, o out, c classes.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lit_fa.federated._dense_chain.parameter_update import ParameterUpdate, Rows
from lit_fa.federated.client_batch import ClientBatch
from lit_fa.functional.criteria import ROWS, one_hot
from lit_fa.layers.taps import block_key
from lit_fa.rules.base import Batch, LearningRule, Tensors
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment
from lit_fa.rules.feedback_alignment import FeedbackAlignment
from lit_fa.rules.learner import Learner
from lit_fa.written.chain import Chain, DenseLayer, Unsupported


class ErrorGradient:
    """Explicit gradient; the rules differ in the backward matrix and in the error that it is applied to."""

    def __init__(self, learner: Learner, chain: Chain, clients: ClientBatch, update: ParameterUpdate):
        """See the class."""
        self.layers, self.criterion, self.rule = chain.layers, ROWS[learner.criterion], learner.rule
        self.clients, self.update, self.space = clients, update, update.space
        self.direct = isinstance(learner.rule, DirectFeedbackAlignment)
        if self.direct:
            self.backward = _direct(learner, clients)
        else:
            self.backward = [_transposed(layer, clients) for layer in chain.layers[1:]]

    @staticmethod
    def check(rule: LearningRule, chain: Chain) -> None:
        """Raise `Unsupported` for options of the rule that have no explicit gradient."""
        if isinstance(rule, FeedbackAlignment) and (rule.source.evolves or rule.source.trained):
            raise Unsupported(f"the feedback of {rule.source} changes while a client trains")
        if isinstance(rule, DirectFeedbackAlignment) and rule.storage == "redrawn":
            raise Unsupported("redrawn feedback is not stored")
        if isinstance(rule, DirectFeedbackAlignment) and not chain.is_cut_behind([*rule.links]):
            raise Unsupported("direct feedback does not go to every hidden layer's output")

    def __call__(self, batch: Batch, rows: Rows) -> tuple[Tensor, Tensor]:
        """Update all layers; returns losses (a, b) and whether predictions are correct (a, b)."""
        x, targets = batch
        values = [x.flatten(2)]
        for number, layer in enumerate(self.layers):
            out = self.space(f"value {number}", *targets.shape, layer.units)
            values.append(layer.output(values[-1], self.clients.params, out))
        losses, error = self.criterion(values[-1], targets)
        error.mul_(rows.weights.unsqueeze(-1))
        teacher = self._teacher(error, targets, rows)
        correct = values[-1].argmax(-1) == targets
        for number in reversed(range(len(self.layers))):
            layer = self.layers[number]
            layer.activation.backward_(error, values[number + 1])
            below = self._below(number, teacher if self.direct else error) if number else error
            self.update.layer(layer, error, values[number])
            error = below
        return losses, correct

    def _below(self, number: int, error: Tensor) -> Tensor:
        """The error (a, b, i) at the output of the layer below; computed before this layer's weights change."""
        out = self.space(f"error {number}", *error.shape[:2], self.layers[number - 1].units)
        of_params, gain = self.backward[number - 1]
        matrix = of_params(self.clients.params)
        if matrix.ndim == 2:  # the same for all clients
            torch.mm(error.flatten(0, 1), matrix, out=out.flatten(0, 1))
        else:
            torch.bmm(error, matrix, out=out)
        return out if gain == 1 else out.mul_(gain)

    def _teacher(self, error: Tensor, targets: Tensor, rows: Rows) -> Tensor:
        """The teaching signal of direct feedback: the error at the logits, or the target."""
        if not isinstance(self.rule, DirectFeedbackAlignment) or self.rule.teacher == "error":
            return error
        weights = rows.weights if self.rule.target_reduction == "mean" else rows.valid
        return one_hot(targets, error) * weights.unsqueeze(-1)


class Backward(NamedTuple):
    """The matrix of the backward pass: (o, i), or (a, o, i) of the clients' parameters; and a factor."""

    matrix: Callable[[Tensors], Tensor]
    gain: float = 1.0


def _transposed(layer: DenseLayer, clients: ClientBatch) -> Backward:
    """The layer's own weights; or its feedback matrix, fixed or computed from the weights at every step."""
    if layer.feedback is None:
        return Backward(lambda params: params[layer.weight])
    source, gain = layer.feedback.source, layer.feedback.gain
    stored = clients.shared.get(layer.feedback_weight)
    if stored is not None and source.matrix(clients.params[layer.weight][0], stored) is stored:
        fixed = (stored * gain).to(clients.params[layer.weight].dtype)
        return Backward(partial(_fixed, fixed))
    matrix = torch.vmap(source.matrix, (0, None))
    return Backward(lambda params: matrix(params[layer.weight], stored), gain)


def _direct(learner: Learner, clients: ClientBatch) -> list[Backward]:
    """The direct feedback matrices, from the logits to every block."""
    own, like = learner.split(clients.shared).rule, next(iter(clients.params.values()))
    fixed = [own[f"feedback.{block_key(name)}.weight"].to(like.dtype) for name in learner.rule.links]
    return [Backward(partial(_fixed, matrix)) for matrix in fixed]


def _fixed(matrix: Tensor, params: Tensors) -> Tensor:
    return matrix
