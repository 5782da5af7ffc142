"""The executor `stacked`: which rules have an explicit gradient, and its use in a client step."""

import torch
from torch import Tensor

from lit_fa.federated._dense_chain.error_rules import ErrorGradient
from lit_fa.federated._dense_chain.forward_forward import ForwardForwardGradient
from lit_fa.federated._dense_chain.parameter_update import ParameterUpdate, Rows
from lit_fa.federated.client_batch import ClientBatch, ClientBatchExecutor
from lit_fa.federated.client_step import Gradient, TrainingClient
from lit_fa.federated.round_task import LocalTraining
from lit_fa.functional.criteria import ROWS
from lit_fa.rules.backprop import Backprop
from lit_fa.rules.base import LearningRule, Tensors
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment
from lit_fa.rules.feedback_alignment import FeedbackAlignment
from lit_fa.rules.flfa import FLFA
from lit_fa.rules.forward_forward import ForwardForward
from lit_fa.rules.learner import Learner
from lit_fa.written.chain import Chain, Unsupported, check_value, read_chain

GRADIENTS: dict[type[LearningRule], type[ErrorGradient | ForwardForwardGradient]] = {
    **dict.fromkeys((Backprop, FeedbackAlignment, FLFA, DirectFeedbackAlignment), ErrorGradient),
    ForwardForward: ForwardForwardGradient,
}


class StackedExecutor(ClientBatchExecutor):
    """Explicit gradients on stacked parameters, for chains of dense layers."""

    name = "stacked"
    each = staticmethod(lambda function: function)  # these rules change only counters, elementwise: no vmap

    def refusal(self, learner: Learner, local: LocalTraining) -> str | None:
        """What has no explicit gradient, in one sentence, or None."""
        try:
            check_value(learner, _chain(learner, local))
        except Unsupported as reason:
            return str(reason)
        return None

    def gradient(self, learner: Learner, local: LocalTraining, clients: ClientBatch) -> Gradient:
        """The explicit gradient; a client with fewer rows than the largest is padded, and padding has weight 0."""
        update = ParameterUpdate(local, clients)
        explicit = GRADIENTS[type(learner.rule)](learner, _chain(learner, local), clients, update)
        round_, rows = clients.task.round, Rows.none()

        def gradient(_: TrainingClient, step: int) -> tuple[Tensors, Tensor]:
            nonlocal rows
            batch = round_.stacked(clients.active, step)
            rows = rows.of(round_.rows[: clients.active, step], batch[1].shape[1], update.like)
            losses, correct = explicit(batch, rows)
            sums = torch.stack([losses, correct.to(losses.dtype)]).mul_(rows.valid).sum((1, 2))
            return update.grads, torch.cat([sums, rows.valid.sum().view(1)]).double()

        return gradient


def _chain(learner: Learner, local: LocalTraining) -> Chain:
    """The network as a chain; raises `Unsupported` if rule, criterion or algorithm have no explicit gradient."""
    rule = type(learner.rule)
    if local.stream:
        raise Unsupported("stream frees one block at a time, which needs a client alone")
    if local.algorithm.wants_features:
        raise Unsupported(f"{type(local.algorithm).__name__} adds a penalty to the loss, which needs autograd")
    if rule not in GRADIENTS:
        raise Unsupported(f"{rule.__name__} has no explicit gradient")
    if learner.criterion not in ROWS:
        raise Unsupported("the criterion is not cross_entropy, mse or bce")
    if torch.is_autocast_enabled(next(learner.parameters()).device.type):
        raise Unsupported("mixed precision has no explicit gradient")
    chain = read_chain(learner)
    GRADIENTS[rule].check(learner.rule, chain)
    return chain
