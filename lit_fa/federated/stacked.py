r"""Explicit local rules on stacked parameters: no autograd graph, no gradient tensor, everything in place.

For chains of dense layers. With $\delta_l$ the error at layer l's sum and h its input, a step of plain SGD is
$W_l \leftarrow W_l - \eta\, \delta_l^\top h$, one `baddbmm_` for all clients. What carries the error down is the rule:

backprop: $\delta_{l-1} = (\delta_l W_l) \odot \phi'$; feedback alignment: $(\delta_l B_l) \odot \phi'$; direct
feedback: $(e F_{l-1}) \odot \phi'$. Forward-Forward, which carries none, is in `stacked_forward_forward`.

`vmap` and `sequential` are its oracles.

Legend: a lanes, b rows, i in, o out, c classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import vmap

from lit_fa.federated.dense import Dense, read_chain
from lit_fa.federated.features import Features
from lit_fa.federated.lanes import LaneExecutor, Lanes
from lit_fa.federated.stacked_forward_forward import ForwardForwardStep, refusal_of_forward_forward
from lit_fa.federated.updates import Updates, row_weights
from lit_fa.federated.work import Learner, LocalTraining, trainable
from lit_fa.functional.criteria import bce, cross_entropy, mse, one_hot
from lit_fa.layers.feedback import feedback_layers
from lit_fa.rules.backprop import Backprop
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment
from lit_fa.rules.feedback_alignment import FeedbackAlignment
from lit_fa.rules.forward_forward import ForwardForward

Carry = Callable[[Tensor, Tensor, int], Tensor]  # (delta at layer l, error at the logits, l) to that at l - 1's output


class StackedExecutor(LaneExecutor):
    """The rules of dense chains, written out."""

    name = "stacked"

    def refusal(self, learner: Learner, local: LocalTraining) -> str | None:
        """Why this work cannot be written out, or None."""
        if local.stream or local.algorithm.wants_features:
            return "what looks at representations or streams blocks is not written out"
        like = next(learner.network.parameters())
        first = next((m for m in learner.network.modules() if isinstance(m, nn.Linear)), None)
        if first is None:
            return "the network has no dense layer"
        chain = read_chain(learner.network, like.new_zeros(2, first.in_features))
        if isinstance(chain, str):
            return chain
        if isinstance(learner.rule, ForwardForward):
            return refusal_of_forward_forward(learner, chain)
        if len(trainable(learner)) != len(list(learner.named_parameters())):
            return "a frozen or trained feedback tensor is among the parameters"
        if learner.criterion not in (cross_entropy, mse, bce):
            return "the criterion is not written out"
        return _refusal_of_rule(learner, chain)

    def train(self, learner: Learner, local: LocalTraining, lanes: Lanes, features: Features | None) -> Tensor:
        """Take all local steps in place."""
        first = next(m for m in learner.network.modules() if isinstance(m, nn.Linear))
        example = next(iter(lanes.params.values())).new_zeros(2, first.in_features)
        chain = read_chain(learner.network, example)
        totals = example.new_zeros(3, dtype=torch.float64)
        updates = Updates(local, lanes)
        step_of = ForwardForwardStep if isinstance(learner.rule, ForwardForward) else ErrorStep
        take = step_of(learner, chain, lanes, updates)
        for step in range(lanes.work.round.steps[0]):
            lanes.advance(step)
            x, y = lanes.work.round.stacked(lanes.active, step)
            rows = lanes.work.round.rows[: lanes.active, step]
            totals += take(x.flatten(2), y, row_weights(rows, y, x.dtype))
            updates.apply(step)
        return totals.cpu()


class ErrorStep:
    """A step of the rules that carry an error."""

    def __init__(self, learner: Learner, chain: list[Dense], lanes: Lanes, updates: Updates):
        """Look up how the rule carries the error."""
        self.chain, self.lanes, self.updates = chain, lanes, updates
        self.criterion, self.carry = learner.criterion, _carry(learner, chain, lanes)

    def __call__(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Inputs (a, b, i), labels (a, b), weights (a, b) of rows: 1 / rows, or 0 for padding."""
        heights = [x]
        for layer in self.chain:
            heights.append(layer.forward(heights[-1], self.lanes.params))
        loss, error = _at_logits(self.criterion, heights[-1], y)
        delta = error = error.mul_(weights.unsqueeze(2))
        for number in reversed(range(len(self.chain))):
            below = None
            if number:
                below = self.chain[number - 1].gate(self.carry(delta, error, number), heights[number])
            self.updates.dense(self.chain[number], delta, heights[number])
            delta = below
        valid = weights > 0
        correct = (heights[-1].argmax(-1) == y) & valid
        return torch.stack([(loss.double() * valid).sum(), correct.sum().double(), valid.sum().double()])


def _at_logits(criterion: Callable, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each row (a, b), and its gradient at the logits (a, b, c)."""
    target = one_hot(y, logits)
    if criterion is cross_entropy:
        log_p = logits.log_softmax(-1)
        return -(log_p * target).sum(-1), log_p.exp_().sub_(target)
    if criterion is mse:
        difference = logits - target
        return difference.square().mean(-1), difference * (2 / logits.shape[-1])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(-1)
    return loss, logits.sigmoid().sub_(target).div_(logits.shape[-1])


def _refusal_of_rule(learner: Learner, chain: list[Dense]) -> str | None:
    rule = learner.rule
    if type(rule) is Backprop:
        return None
    if isinstance(rule, FeedbackAlignment):
        layers = feedback_layers(learner.network).values()
        evolving = any(layer.feedback.source.evolves or layer.feedback.source.trained for layer in layers)
        return "feedback that is learned is not written out" if evolving else None
    if isinstance(rule, DirectFeedbackAlignment) and rule.teacher == "error" and len(rule.links) == len(chain) - 1:
        dense = all(link.ndim == 2 and link.shape[1] > 1 for link in rule.links.values())
        return None if dense else "feedback that positions share is not written out"
    return f"{type(rule).__name__} as it is set is not written out"


def _carry(learner: Learner, chain: list[Dense], lanes: Lanes) -> Carry:
    rule, params = learner.rule, lambda layer: lanes.params[layer.weight_name]
    if isinstance(rule, DirectFeedbackAlignment):
        links = list(rule.links.values())
        return lambda delta, error, number: error @ links[number - 1].to(error)
    back = {
        name: vmap(lambda w, f=layer.feedback: f.source.matrix(w, f.weight) * f.gain)
        for name, layer in feedback_layers(learner.network).items()
    }

    def carry(delta: Tensor, error: Tensor, number: int) -> Tensor:
        layer = chain[number]
        own = params(layer)
        return torch.bmm(delta, back[layer.name](own) if layer.name in back else own)

    return carry
