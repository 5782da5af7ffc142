r"""Forward-Forward: every layer is updated as soon as it has seen positive and negative samples.

With $h$ a layer's output for positive (true label) and negative (wrong label) samples and $G$ their goodness, the error
is $\partial L/\partial h = \tfrac2u\,(\partial L/\partial G)\,h$, which the derivative of a ReLU leaves as it is.

The first layer is linear in image and label, and a labelled sample's length r does not depend on which label it is:
$W(x + s\,e_y)/r = (Wx + s\,W_y)/r$. So the image, its label entries set to 0, is multiplied by W once for both halves
and for the head, and its part of the gradient comes from the sum of both halves' errors.

Letters: a active clients, b rows (both halves: 2b), i in, u units, c classes.
"""

from functools import reduce

import torch
from torch import Tensor

from lit_fa.federated._dense_chain.parameter_update import ParameterUpdate, Rows
from lit_fa.federated.client_batch import ClientBatch
from lit_fa.functional.criteria import ROWS, one_hot
from lit_fa.functional.goodness import (
    contrast_rows,
    contrast_slopes,
    inverse_length,
    likely_labels,
    of_squares,
    permuted_labels,
    sample_hash,
    wrong_labels,
)
from lit_fa.rules.base import Batch, LearningRule
from lit_fa.rules.forward_forward import ForwardForward
from lit_fa.rules.learner import Learner
from lit_fa.written.chain import Chain, Unsupported


class ForwardForwardGradient:
    """The rule's two passes, or three with a head, and its local gradients."""

    def __init__(self, learner: Learner, chain: Chain, clients: ClientBatch, update: ParameterUpdate):
        """See the class."""
        assert isinstance(learner.rule, ForwardForward)
        self.learner, self.rule = learner, learner.rule
        *self.hidden, self.head = chain.layers
        self.criterion = ROWS[learner.criterion]
        self.clients, self.update, self.space = clients, update, update.space

    @staticmethod
    def check(rule: LearningRule, chain: Chain) -> None:
        """Raise `Unsupported` for options of the rule that have no explicit gradient."""
        assert isinstance(rule, ForwardForward)
        if rule.peer:
            raise Unsupported("peer normalisation has no explicit gradient")
        if rule.schedule != "simultaneous":
            raise Unsupported("the greedy schedule updates one block at a time")
        if not chain.is_cut_behind(rule.taps.names):
            raise Unsupported("a block is not one hidden layer")

    def __call__(self, batch: Batch, rows: Rows) -> tuple[Tensor, Tensor]:
        """Update all layers; returns losses (a, b) and whether predictions are correct (a, b)."""
        x, targets = batch
        image = LabelledImage(x.flatten(2), self)
        losses: list[Tensor] = []
        logits = None
        if self.rule.head == "softmax":
            features, logits = self._head(image)
            head_losses, error = self.criterion(logits, targets)
            losses.append(head_losses)
            self.update.layer(self.head, error.mul_(rows.weights.unsqueeze(-1)), features)
        wrong = self._wrong_labels(x, targets, logits, rows)
        goodness = self._hidden(image, torch.cat([targets, wrong], 1), rows)
        pairs = [(g.chunk(2, 1), layer.units) for g, layer in zip(goodness, self.hidden, strict=True)]
        local = [contrast_rows(good, bad, *self.rule.contrast_options(units)) for (good, bad), units in pairs]
        losses.append(reduce(torch.add, local))
        correct = self._better(goodness, targets, wrong) if logits is None else logits.argmax(-1) == targets
        return reduce(torch.add, losses), correct

    def _hidden(self, image: "LabelledImage", labels: Tensor, rows: Rows) -> list[Tensor]:
        """Update the hidden layers; returns each one's goodness (a, 2b)."""
        goodness: list[Tensor] = []
        below: Tensor | None = None
        for number, layer in enumerate(self.hidden):
            out = self.space(f"value {number}", *labels.shape, layer.units)
            h = image.labelled(labels, out) if below is None else layer.output(below, self.clients.params, out)
            norm = torch.linalg.vector_norm(h, dim=-1)
            goodness.append(of_squares(norm.square(), layer.units, self.rule.goodness))
            positive, negative = goodness[-1].chunk(2, 1)
            slopes = contrast_slopes(positive, negative, *self.rule.contrast_options(layer.units), rows=1)
            slopes *= rows.weights.repeat(1, 2)
            slopes *= 2 if self.rule.goodness == "sum" else 2 / layer.units
            error = torch.mul(h, slopes.unsqueeze(-1), out=self.space("error", *h.shape))
            if not layer.activation.is_mask:
                layer.activation.backward_(error, h)
            if below is None:
                image.update(error)
            else:
                self.update.layer(layer, error, below)
            below = self._normalised(h, norm) if layer is not self.hidden[-1] else None
        return goodness

    def _head(self, image: "LabelledImage") -> tuple[Tensor, Tensor]:
        """The last hidden layer's normalised output for the neutral label (a, b, i), and the head's logits."""
        a, b = image.product.shape[:2]
        h = image.neutral(self.space("neutral 0", a, b, self.hidden[0].units))
        for number, layer in enumerate(self.hidden):
            if number:
                h = layer.output(h, self.clients.params, self.space(f"neutral {number}", a, b, layer.units))
            h = self._normalised(h, torch.linalg.vector_norm(h, dim=-1))
        return h, self.head.output(h, self.clients.params, self.space("logits", a, b, self.head.units))

    def _normalised(self, h: Tensor, norm: Tensor) -> Tensor:
        """As `functional.goodness.normalise`, in place, from the Euclidean norm (a, b)."""
        inverse = inverse_length(norm, h.shape[-1], self.rule.normalise)
        return h if inverse is None else h.mul_(inverse.unsqueeze(-1))

    def _wrong_labels(self, x: Tensor, targets: Tensor, logits: Tensor | None, rows: Rows) -> Tensor:
        """This step's negative labels (a, b)."""
        steps = self.learner.split(self.clients.buffers).rule["steps"][0]  # the same for all active clients
        numbers = sample_hash(x.flatten(0, 1), self.rule.seed, steps)
        if self.rule.negatives == "permutation":
            counts = rows.counts.to(targets.device).unsqueeze(1)
            return permuted_labels(targets, numbers.view_as(targets), counts)
        if self.rule.negatives == "hard" and logits is not None:
            return likely_labels(targets.flatten(), numbers, logits.flatten(0, 1)).view_as(targets)
        return wrong_labels(targets.flatten(), numbers, self.rule.classes).view_as(targets)

    def _better(self, goodness: list[Tensor], targets: Tensor, wrong: Tensor) -> Tensor:
        """Whether the true label has more goodness than the wrong one; of equals, the smaller label wins."""
        positive, negative = reduce(torch.add, goodness[self.rule.first_counted :]).chunk(2, 1)
        tie = (positive == negative) & (targets <= wrong)
        return (positive > negative) | tie | (targets == wrong)


class LabelledImage:
    """Inputs (a, b, i), label entries set to 0, and their product with the first layer's weights."""

    def __init__(self, flat: Tensor, gradient: ForwardForwardGradient):
        """See the class."""
        self.rule, self.layer, self.update_of = gradient.rule, gradient.hidden[0], gradient.update
        self.params, space = gradient.clients.params, gradient.space
        first = self.rule.position
        self.columns = slice(first, first + self.rule.classes)
        self.x = space("image", *flat.shape).copy_(flat)
        self.x[..., self.columns] = 0
        self.squares = torch.linalg.vector_norm(self.x, dim=-1).square()
        weight = self.params[self.layer.weight]
        self.product = torch.bmm(self.x, weight.mT, out=space("product", *flat.shape[:2], self.layer.units))

    def labelled(self, labels: Tensor, out: Tensor) -> Tensor:
        """The first layer's output (a, 2b, u) with labels (a, 2b)."""
        self.inverse = self._inverse(self.rule.strength**2)
        self.hot = one_hot(labels, self.x[0, :, self.columns]).mul_(self.rule.strength)
        if self.inverse is not None:
            self.hot.mul_(self.inverse.repeat(1, 2).unsqueeze(-1))
        self._label_part(self.hot, out)
        a, b, u = self.product.shape
        for half in out.view(a, 2, b, u).unbind(1):
            if self.inverse is None:
                half.add_(self.product)
            else:
                half.addcmul_(self.product, self.inverse.unsqueeze(-1))
        self.layer.activation.apply_(out)
        return out

    def neutral(self, out: Tensor) -> Tensor:
        """The first layer's output (a, b, u) with the neutral label, 1/c for every class."""
        c = self.rule.classes
        inverse, share = self._inverse(self.rule.strength**2 / c), self.rule.strength / c
        scale = self.product.new_ones(out.shape[:2]) if inverse is None else inverse
        self._label_part((share * scale).unsqueeze(-1).expand(-1, -1, c), out)
        self.layer.activation.apply_(out.addcmul_(self.product, scale.unsqueeze(-1)))
        return out

    def update(self, error: Tensor) -> None:
        """Update the first layer by the error (a, 2b, u) of both halves; `product` is overwritten."""
        if self.layer.bias is not None:
            self.update_of.bias(self.layer.bias, error)
        positive, negative = error.chunk(2, 1)
        both = torch.add(positive, negative, out=self.product)
        if self.inverse is not None:
            both.mul_(self.inverse.unsqueeze(-1))
        self.update_of.weight(self.layer.weight, both, self.x)
        self.update_of.columns(self.layer.weight, self.columns.start, error, self.hot)

    def _inverse(self, label: float) -> Tensor | None:
        """1/r (a, b) of samples whose label entries have this sum of squares."""
        return inverse_length((self.squares + label).sqrt(), self.x.shape[-1], self.rule.normalise)

    def _label_part(self, hot: Tensor, out: Tensor) -> Tensor:
        """What labels (a, n, c) add to the first layer, bias included."""
        columns = self.params[self.layer.weight][..., self.columns].mT
        if self.layer.bias is None:
            return torch.bmm(hot, columns, out=out)
        return torch.baddbmm(self.params[self.layer.bias].unsqueeze(1), hot, columns, out=out)
