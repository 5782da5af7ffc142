r"""Forward-Forward: the local gradients of every layer, from the rule's own formulas, without autograd.

With $h$ a layer's output for positive and negative samples and $G$ their goodness, the error at $h$ is
$\tfrac2u\,(\partial L/\partial G)\,h$. The image, its label entries set to 0, is multiplied by the weights of the first
layer once for both halves (`layers.labels`). Lanes are computed one after another, because wrong labels and options of
the loss belong to a run.

Letters: k lanes, n batch, i in, o out, c classes.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from lit_fa.functional.criteria import one_hot
from lit_fa.functional.goodness import (
    contrast,
    contrast_slopes,
    divided,
    length,
    of_squares,
    overlay,
    squares,
    two_label_logits,
)
from lit_fa.rules.base import LearningRule, Tensors
from lit_fa.rules.forward_forward import ForwardForward
from lit_fa.rules.learner import Learner
from lit_fa.written.chain import Chain, DenseLayer, Unsupported
from lit_fa.written.losses import LOSSES
from lit_fa.written.workspace import Workspace


class ForwardForwardGradient:
    """The gradients of all lanes, as `error_gradient.ErrorGradient`."""

    def __init__(self, learners: Sequence[Learner], chains: Sequence[Chain], tensors: Tensors):
        """See the class."""
        self.lanes = [_Lane(*pair) for pair in zip(learners, chains, strict=True)]

    @staticmethod
    def check(rule: LearningRule, chain: Chain) -> None:
        """Raise `Unsupported` for options of the rule that have no explicit gradient."""
        assert isinstance(rule, ForwardForward)
        if rule.peer or rule.schedule != "simultaneous" or rule.backend != "closed_form":
            raise Unsupported("peer, schedule: greedy and backend: autograd have no explicit gradient")
        if rule.label != "pixels" or rule.labelled.layer is None or not rule.labelled.once:
            raise Unsupported("the label of ForwardForward is not in the pixels of a flat image")
        if not chain.is_cut_behind(rule.taps.names):
            raise Unsupported("a block of ForwardForward is not one hidden layer")

    def __call__(
        self, tensors: Tensors, grads: Tensors, inputs: Sequence[Tensor], targets: Tensor, space: Workspace
    ) -> tuple[Tensor, Tensor]:
        """As `ErrorGradient`."""
        found = []
        for number, (lane, x, y) in enumerate(zip(self.lanes, inputs, targets, strict=True)):
            own = {name: tensor[number] for name, tensor in tensors.items()}
            found.append(lane.step(own, {name: grad[number] for name, grad in grads.items()}, x, y))
        losses, logits = zip(*found, strict=True)
        return torch.stack(losses), torch.stack(logits)


class _Lane:
    """One learner."""

    def __init__(self, learner: Learner, chain: Chain):
        assert isinstance(learner.rule, ForwardForward)
        self.rule, self.loss = learner.rule, LOSSES[learner.criterion]
        *self.hidden, self.head = chain.layers
        self.columns = slice(self.rule.position, self.rule.position + self.rule.classes)

    def step(self, params: Tensors, grads: Tensors, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Write the gradients; returns the loss and logits (n, c)."""
        rule, losses = self.rule, list[Tensor]()
        logits = None
        if rule.head == "softmax":
            features = self._neutral(params, inputs)
            logits = _linear(self.head, features, params)
            head_loss, error = self.loss(logits[None], targets[None])
            losses.append(head_loss[0])
            self.head.gradient(error, features[None], {name: grad[None] for name, grad in grads.items()})
        wrong = rule.wrong_labels(inputs, targets, logits)
        labels = rule.strength * one_hot(torch.stack([targets, wrong]), inputs.new_zeros(rule.classes))
        counted = self._hidden(params, grads, inputs, labels, losses)
        loss = reduce(torch.add, losses)
        return loss, two_label_logits(targets, wrong, counted, rule.classes) if logits is None else logits

    def _hidden(self, params: Tensors, grads: Tensors, inputs: Tensor, labels: Tensor, losses: list[Tensor]) -> Tensor:
        """The local losses and gradients for labels (2, n, c); returns the goodness (2n,) that a prediction counts."""
        rule, counted = self.rule, list[Tensor]()
        x, written = self._labelled_input(inputs, labels)
        h = self._first(params, x, written)
        for number, layer in enumerate(self.hidden):
            if number:
                below = h
                h = _activated(layer, below, params)
            sums = squares(h)
            options = rule.contrast_options(layer.units)
            good, bad = of_squares(sums, layer.units, rule.goodness).chunk(2)
            losses.append(contrast(good, bad, *options))
            slopes = of_squares(2 * contrast_slopes(good, bad, *options), layer.units, rule.goodness)
            error = (h * slopes.view(-1, 1)).to(h.dtype)
            layer.activation.backward_(error, h)
            if number:
                layer.gradient(error[None], below[None], {name: grad[None] for name, grad in grads.items()})
            else:
                self._first_gradient(grads, error.view(2, -1, layer.units), x, written)
            if number >= rule.first_counted:
                counted.append(of_squares(sums, layer.units, rule.goodness))
            if number + 1 < len(self.hidden):
                h = divided(h, length(sums, layer.units, rule.normalise))
        return reduce(torch.add, counted)

    def _neutral(self, params: Tensors, inputs: Tensor) -> Tensor:
        """The last hidden layer's normalised output (n, i) for the neutral label, 1/c for every class."""
        neutral = inputs.new_full((1, len(inputs), self.rule.classes), self.rule.strength / self.rule.classes)
        h = self._first(params, *self._labelled_input(inputs, neutral))
        for number, layer in enumerate(self.hidden):
            if number:
                h = _activated(layer, h, params)
            h = divided(h, length(squares(h), layer.units, self.rule.normalise))
        return h

    def _labelled_input(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Image (n, i) without label entries, and labels (k, n, c), both divided by the sample's length."""
        image = overlay(inputs, torch.zeros_like(labels[0]), self.rule.position)
        size = image[0].numel()
        r = length(squares(image) + labels[0].square().sum(1), size, self.rule.normalise)
        written = labels if r is None else (labels / r.unsqueeze(1)).to(labels.dtype)
        return divided(image, r).flatten(1), written

    def _first(self, params: Tensors, x: Tensor, labels: Tensor) -> Tensor:
        """The first layer's output (k n, o) of images x (n, i) with labels (k, n, c)."""
        layer = self.hidden[0]
        output, k = _linear(layer, x, params), len(labels)
        alone = params[layer.weight][:, self.columns].t()
        both = torch.baddbmm(output.expand(k, *output.shape), labels, alone.expand(k, *alone.shape))
        both = both.flatten(0, 1)
        layer.activation.apply_(both)
        return both

    def _first_gradient(self, grads: Tensors, error: Tensor, x: Tensor, labels: Tensor) -> None:
        """As `layers.labels` has it, from the error (2, n, o)."""
        layer, whole = self.hidden[0], error.sum(0)
        if (weight := grads.get(layer.weight)) is not None:
            torch.mm(whole.t(), x, out=weight)
            weight[:, self.columns] = error.flatten(0, 1).t() @ labels.flatten(0, 1)
        if layer.bias in grads:
            torch.sum(whole, 0, out=grads[layer.bias])


def _linear(layer: DenseLayer, x: Tensor, params: Tensors) -> Tensor:
    """x W^T + b of one lane."""
    return torch.nn.functional.linear(x, params[layer.weight], None if layer.bias is None else params[layer.bias])


def _activated(layer: DenseLayer, x: Tensor, params: Tensors) -> Tensor:
    """phi(x W^T + b) of one lane."""
    out = _linear(layer, x, params)
    layer.activation.apply_(out)
    return out
