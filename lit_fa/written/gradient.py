"""Which learners have an explicit gradient, and the gradients of several of them at once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_fa.rules.backprop import Backprop
from lit_fa.rules.base import Batch, LearningRule, Tensors
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment
from lit_fa.rules.feedback_alignment import FeedbackAlignment
from lit_fa.rules.forward_forward import ForwardForward
from lit_fa.rules.learner import Learner
from lit_fa.written.chain import Chain, Unsupported, check_value, read_chain
from lit_fa.written.error_gradient import ErrorGradient
from lit_fa.written.forward_forward import ForwardForwardGradient
from lit_fa.written.losses import LOSSES
from lit_fa.written.workspace import Workspace

GRADIENTS: dict[type[LearningRule], type[ErrorGradient | ForwardForwardGradient]] = {
    **dict.fromkeys((Backprop, FeedbackAlignment, DirectFeedbackAlignment), ErrorGradient),
    ForwardForward: ForwardForwardGradient,
}


class Result(NamedTuple):
    """One step of all lanes.

    Attributes:
        losses: (k,) what each learner's `Surrogate.loss` would be.
        logits: (k, n, c); overwritten by the next step.
    """

    losses: Tensor
    logits: Tensor


class WrittenGradient:
    """The gradients of k learners, equal bit for bit to those of their scalars.

    Args:
        learners: one for each lane; `family` must be the same for all.

    Its parameters and buffers must stay the same objects, as they do during a fit.

    Raises:
        Unsupported: what has no explicit gradient, in one sentence.

    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    >>> learner = Learner(network, FeedbackAlignment(), torch.zeros(2, 30))
    >>> batch = torch.randn(8, 30), torch.arange(8)
    >>> _ = WrittenGradient([learner])(batch)
    >>> written = {name: p.grad.clone() for name, p in learner.named_parameters()}
    >>> learner.zero_grad()
    >>> learner(batch).value.backward()
    >>> all(torch.equal(p.grad, written[name]) for name, p in learner.named_parameters())
    True
    """

    def __init__(self, learners: Sequence[Learner]):
        """See the class."""
        self.learners = learners
        self.chains = [read(learner) for learner in learners]
        params, buffers = learners[0].tensors()
        self.named = params | buffers  # torch searches all modules for them, so once
        self.trained = {name: p for name, p in params.items() if p.requires_grad}
        self.space = Workspace(next(iter(params.values())).detach())
        self.explicit = GRADIENTS[type(learners[0].rule)](learners, self.chains, self._tensors())

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Result:
        """Set `.grad` of the only learner; inputs (n, ...) and targets (n,)."""
        grads = {name: self.space(f"gradient {name}", 1, *p.shape) for name, p in self.trained.items()}
        inputs, targets = batch
        losses, logits = self.explicit(self._tensors(), grads, [inputs], targets[None], self.space)
        for name, p in self.trained.items():
            p.grad = grads[name][0]
        return Result(losses, logits)

    def _tensors(self) -> Tensors:
        """Name to parameter or buffer (1, ...) of the only learner."""
        return {name: tensor.detach()[None] for name, tensor in self.named.items()}


def read(learner: Learner) -> Chain:
    """The network as a chain.

    Raises:
        Unsupported: what has no explicit gradient.
    """
    rule = type(learner.rule)
    if rule not in GRADIENTS:
        raise Unsupported(f"{rule.__name__} has no explicit gradient")
    if learner.criterion not in LOSSES:
        raise Unsupported("a criterion other than cross_entropy, mse and bce has no explicit gradient")
    chain = read_chain(learner)
    GRADIENTS[rule].check(learner.rule, chain)
    check_value(learner, chain)
    return chain


def family(learner: Learner) -> tuple[object, ...]:
    """What learners must have in common so that one program computes the gradients of all of them.

    They may differ in every tensor, and in the source of layer-wise feedback.
    """
    chain, rule = read(learner), learner.rule
    options = (rule.teacher, rule.target_reduction) if isinstance(rule, DirectFeedbackAlignment) else ()
    kind = "direct" if options else "forward-forward" if isinstance(rule, ForwardForward) else "layer by layer"
    params = dict(learner.named_parameters())
    names = [name for layer in chain.layers for name in (layer.weight, layer.bias) if name]
    shapes = [(name, params[name].shape, params[name].dtype, params[name].requires_grad) for name in names]
    activations = [layer.activation.name for layer in chain.layers]
    return (kind, *options, learner.criterion, *activations, *shapes, *rule.links)
