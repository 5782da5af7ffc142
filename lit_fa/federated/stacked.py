r"""Clients with dense networks side by side, by rules that are written out: no autograd, everything in place.

One product of stacked matrices a layer and pass. Where the local optimiser is plain SGD and the algorithm corrects
nothing, a product goes straight into the weights, $W \leftarrow (1-\eta\lambda)W - \eta\,\delta^\top h$, and no
gradient is ever stored. The executors `vmap` and `sequential` do the same by autograd; their numbers are these.

A lane whose batch is shorter than the longest is padded; rows count with weight 1/valid, padding with 0.
Letters: a lanes, b rows, i in, o out, c classes.
"""

import torch
from torch import Tensor

from lit_fa.federated.apply_update import Movement, Rows, Written
from lit_fa.federated.client_batch import LaneExecutor, Lanes
from lit_fa.federated.dense import ERRORS, Chain, NotWritten, check_value, read_chain
from lit_fa.federated.features import Features
from lit_fa.federated.round_task import Learner, LocalTraining
from lit_fa.federated.stacked_by_error import ByError, check_error_rule
from lit_fa.federated.stacked_forward_forward import ByGoodness, check_forward_forward
from lit_fa.rules.backprop import Backprop
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment
from lit_fa.rules.feedback_alignment import FeedbackAlignment
from lit_fa.rules.flfa import FLFA
from lit_fa.rules.forward_forward import ForwardForward

RULES = {
    Backprop: (ByError, check_error_rule),
    FeedbackAlignment: (ByError, check_error_rule),
    FLFA: (ByError, check_error_rule),
    DirectFeedbackAlignment: (ByError, check_error_rule),
    ForwardForward: (ByGoodness, check_forward_forward),
}


class StackedExecutor(LaneExecutor):
    """Explicit rules on stacked parameters, for chains of dense layers."""

    name = "stacked"

    def refusal(self, learner: Learner, local: LocalTraining) -> str | None:
        """What of this work is not written out, in one sentence, or None."""
        try:
            check_value(learner, _chain(learner, local))
        except NotWritten as reason:
            return str(reason)
        return None

    def train(self, learner: Learner, local: LocalTraining, lanes: Lanes, features: Features | None) -> Tensor:
        """Take all local steps in place."""
        written, _ = RULES[type(learner.rule)]
        rule: Written = written(learner, _chain(learner, local), lanes)
        movement, round_ = Movement(local, lanes), lanes.work.round
        seen = torch.zeros(2, dtype=torch.float64, device=movement.like.device)
        rows: Rows | None = None
        for step in range(lanes.steps[0]):
            lanes.advance(step)
            batch = round_.stacked(lanes.active, step)
            rows = _rows(round_.rows[: lanes.active, step], batch[1].shape[1], movement.like, rows)
            losses, right = rule(batch, rows, lanes, movement)
            movement.finish(step)
            seen += torch.stack([losses, right.to(losses.dtype)]).mul_(rows.valid).sum((1, 2))
        return torch.cat([seen.cpu(), round_.rows.sum().double().view(1)])


def _rows(counts: Tensor, longest: int, like: Tensor, last: Rows | None) -> Rows:
    """Which rows count; those of the last step if nothing has changed."""
    if last is not None and last.valid.shape[1] == longest and torch.equal(counts, last.counts):
        return last
    valid = (torch.arange(longest) < counts.unsqueeze(1)).to(like.dtype)
    return Rows(counts, valid.to(like.device), (valid / counts.unsqueeze(1)).to(like.device))


def _chain(learner: Learner, local: LocalTraining) -> Chain:
    """The network as a chain, if rule, criterion and algorithm are written out for it; else `NotWritten`."""
    rule = type(learner.rule)
    if local.stream:
        raise NotWritten("stream frees one block at a time, which needs a client alone")
    if local.algorithm.wants_features:
        raise NotWritten(f"{type(local.algorithm).__name__} adds a penalty to the loss, which needs autograd")
    if rule not in RULES:
        raise NotWritten(f"{rule.__name__} is not written out")
    if learner.criterion not in ERRORS:
        raise NotWritten("the criterion is not cross_entropy, mse or bce")
    if torch.is_autocast_enabled(next(learner.parameters()).device.type):
        raise NotWritten("mixed precision is not written out")
    chain = read_chain(learner)
    RULES[rule][1](learner.rule, chain)
    return chain
