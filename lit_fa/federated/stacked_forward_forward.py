r"""Forward-Forward written out: every layer moves as soon as it has seen both halves, and none waits for another.

With $h$ a layer's output for positive (true label) and negative (wrong label) samples and $G$ their goodness, the error
is $\partial L/\partial h = \tfrac2u\,(\partial L/\partial G)\,h$, which a ReLU leaves as it is.

The first layer is linear in image and label, and a labelled sample's length r does not depend on which label it is:
$W(x + s\,e_y)/r = (Wx + s\,W_y)/r$. So the image, its label entries blanked, is projected once for both halves and the
neutral read-out, and its part of the gradient comes from the sum of both halves' errors. Letters: a lanes, b rows (the
halves: 2b), i in, u units, c classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_fa.federated.apply_update import Movement, Rows
from lit_fa.federated.client_batch import Lanes
from lit_fa.federated.dense import ERRORS, Chain, Dense, NotWritten, Workspace
from lit_fa.federated.round_task import Learner
from lit_fa.functional.criteria import one_hot
from lit_fa.functional.goodness import likely_labels, sample_hash, wrong_labels
from lit_fa.rules.base import Batch
from lit_fa.rules.forward_forward import ForwardForward

_LAST = 2**40  # beyond every hash number


def check_forward_forward(rule: ForwardForward, chain: Chain) -> None:
    """Raise `NotWritten` for what `ByGoodness` cannot do."""
    if rule.peer:
        raise NotWritten("peer normalisation is not written out")
    if rule.schedule != "simultaneous":
        raise NotWritten("the greedy schedule moves one block at a time")
    if not chain.is_cut_behind(rule.taps.names):
        raise NotWritten("a block is not one hidden layer")


class ByGoodness:
    """The rule's two passes, or three with a head, and its local gradients."""

    def __init__(self, learner: Learner, chain: Chain, lanes: Lanes):
        """See the class."""
        self.learner, self.rule = learner, learner.rule
        *self.hidden, self.head = chain.layers
        self.criterion = ERRORS[learner.criterion]
        self.space = Workspace(lanes.params[self.hidden[0].weight])

    def __call__(self, batch: Batch, rows: Rows, lanes: Lanes, movement: Movement) -> tuple[Tensor, Tensor]:
        """As `Written` says."""
        x, targets = batch
        image = _Image(x.flatten(2), lanes, self)
        losses, logits = 0, None
        if self.rule.head == "softmax":
            read, logits = self._read_out(image, lanes)
            losses, error = self.criterion(logits, targets)
            movement.layer(self.head, error.mul_(rows.weights.unsqueeze(-1)), read)
        wrong = self._wrong(x, targets, logits, rows, lanes)
        heights = self._learn(image, torch.cat([targets, wrong], 1), rows, lanes, movement)
        losses = losses + sum(
            self._contrast(height, layer)[0] for height, layer in zip(heights, self.hidden, strict=True)
        )
        own = self.learner.split(lanes.buffers).rule
        own["steps"].add_(1)
        own["active"].zero_()
        right = self._between_two(heights, targets, wrong) if logits is None else logits.argmax(-1) == targets
        return losses, right

    def _learn(self, image: "_Image", labels: Tensor, rows: Rows, lanes: Lanes, movement: Movement) -> list[Tensor]:
        """Move the hidden layers; returns each one's goodness (a, 2b)."""
        heights, below = [], None
        for number, layer in enumerate(self.hidden):
            out = self.space(f"value {number}", *labels.shape, layer.units)
            h = layer.output(below, lanes.params, out) if number else image.labelled(labels, out)
            length = torch.linalg.vector_norm(h, dim=-1)
            heights.append(self._goodness(length, layer.units))
            slopes = self._contrast(heights[-1], layer)[1] * rows.weights.repeat(1, 2)
            slopes *= 2 if self.rule.goodness == "sum" else 2 / layer.units
            error = torch.mul(h, slopes.unsqueeze(-1), out=self.space("error", *h.shape))
            if not layer.activation.passes:
                layer.activation.gate(error, h)
            if number:
                movement.layer(layer, error, below)
            else:
                image.move(error, labels, movement)
            below = self._normalised(h, length) if layer is not self.hidden[-1] else None
        return heights

    def _read_out(self, image: "_Image", lanes: Lanes) -> tuple[Tensor, Tensor]:
        """The last hidden layer's normalised output for the neutral label (a, b, i), and the head's logits."""
        a, b = image.projected.shape[:2]
        h = image.neutral(self.space("neutral 0", a, b, self.hidden[0].units))
        for number, layer in enumerate(self.hidden):
            if number:
                h = layer.output(h, lanes.params, self.space(f"neutral {number}", a, b, layer.units))
            h = self._normalised(h, torch.linalg.vector_norm(h, dim=-1))
        return h, self.head.output(h, lanes.params, self.space("logits", a, b, self.head.units))

    def _normalised(self, h: Tensor, length: Tensor) -> Tensor:
        """As `functional.goodness.normalise`, in place, from the Euclidean length (a, b)."""
        inverse = inverse_length(length, h.shape[-1], self.rule.normalise)
        return h if inverse is None else h.mul_(inverse.unsqueeze(-1))

    def _goodness(self, length: Tensor, units: int) -> Tensor:
        return length.square() if self.rule.goodness == "sum" else length.square() / units

    def _contrast(self, height: Tensor, layer: Dense) -> tuple[Tensor, Tensor]:
        usual = float(layer.units) if self.rule.goodness == "sum" else 2.0
        threshold = usual if self.rule.threshold is None else self.rule.threshold
        return contrasts(height, self.rule.loss, threshold, self.rule.sharpness)

    def _wrong(self, x: Tensor, targets: Tensor, logits: Tensor | None, rows: Rows, lanes: Lanes) -> Tensor:
        """This step's negative labels (a, b)."""
        # all lanes have taken the same number of steps
        numbers = sample_hash(x.flatten(0, 1), self.rule.seed, self.learner.split(lanes.buffers).rule["steps"][0])
        if self.rule.negatives == "permutation":
            return permuted_rows(targets, numbers.view_as(targets), rows)
        if self.rule.negatives == "hard":
            return likely_labels(targets.flatten(), numbers, logits.flatten(0, 1)).view_as(targets)
        return wrong_labels(targets.flatten(), numbers, self.rule.classes).view_as(targets)

    def _between_two(self, heights: list[Tensor], targets: Tensor, wrong: Tensor) -> Tensor:
        """Whether the true label has more goodness than the wrong one; of equals, the smaller number wins."""
        positive, negative = sum(heights[self.rule._first_that_counts :]).chunk(2, 1)
        tie = (positive == negative) & (targets <= wrong)
        return (positive > negative) | tie | (targets == wrong)


class _Image:
    """Inputs (a, b, i) with blanked label entries, projected by the first layer."""

    def __init__(self, flat: Tensor, lanes: Lanes, by: ByGoodness):
        """See the class."""
        self.rule, self.layer, self.lanes = by.rule, by.hidden[0], lanes
        first = self.rule.position
        self.columns = slice(first, first + self.rule.classes)
        self.x = by.space("image", *flat.shape).copy_(flat)
        self.x[..., self.columns] = 0
        self.squares = torch.linalg.vector_norm(self.x, dim=-1).square()
        weight = lanes.params[self.layer.weight]
        self.projected = torch.bmm(self.x, weight.mT, out=by.space("projected", *flat.shape[:2], self.layer.units))

    def labelled(self, labels: Tensor, out: Tensor) -> Tensor:
        """The first layer's output (a, 2b, u) with labels (a, 2b)."""
        self.inverse = self._inverse(self.rule.strength**2)
        self.hot = one_hot(labels, self.x[0, :, self.columns]).mul_(self.rule.strength)
        if self.inverse is not None:
            self.hot.mul_(self.inverse.repeat(1, 2).unsqueeze(-1))
        self._label_part(self.hot, out)
        a, b, u = self.projected.shape
        for half in out.view(a, 2, b, u).unbind(1):
            if self.inverse is None:
                half.add_(self.projected)
            else:
                half.addcmul_(self.projected, self.inverse.unsqueeze(-1))
        self.layer.activation.apply(out)
        return out

    def neutral(self, out: Tensor) -> Tensor:
        """The first layer's output (a, b, u) with the neutral label."""
        c = self.rule.classes
        inverse, share = self._inverse(self.rule.strength**2 / c), self.rule.strength / c
        scale = self.projected.new_ones(out.shape[:2]) if inverse is None else inverse
        self._label_part((share * scale).unsqueeze(-1).expand(-1, -1, c), out)
        self.layer.activation.apply(out.addcmul_(self.projected, scale.unsqueeze(-1)))
        return out

    def move(self, error: Tensor, labels: Tensor, movement: Movement) -> None:
        """The first layer's step, from the error (a, 2b, u) of both halves; the error is spent."""
        if self.layer.bias is not None:
            movement.bias(self.layer.bias, error)
        positive, negative = error.chunk(2, 1)
        both = torch.add(positive, negative, out=self.projected)
        if self.inverse is not None:
            both.mul_(self.inverse.unsqueeze(-1))
        movement.weight(self.layer.weight, both, self.x)
        movement.columns(self.layer.weight, self.columns.start, error, self.hot)

    def _inverse(self, label: float) -> Tensor | None:
        """1/r (a, b) of samples whose label has this square."""
        return inverse_length((self.squares + label).sqrt(), self.x.shape[-1], self.rule.normalise)

    def _label_part(self, hot: Tensor, out: Tensor) -> Tensor:
        """What labels (a, n, c) add to the first layer, bias included."""
        params, layer = self.lanes.params, self.layer
        columns = params[layer.weight][..., self.columns].mT
        if layer.bias is None:
            return torch.bmm(hot, columns, out=out)
        return torch.baddbmm(params[layer.bias].unsqueeze(1), hot, columns, out=out)


def inverse_length(length: Tensor, entries: int, kind: str) -> Tensor | None:
    """One over what `functional.goodness.normalise` divides by, from the Euclidean length; None if by nothing."""
    if kind == "none":
        return None
    return 1 / (length + 1e-4 if kind == "l2" else length / math.sqrt(entries) + 1e-8)


def contrasts(height: Tensor, loss: str, threshold: float, sharpness: float) -> tuple[Tensor, Tensor]:
    """Rows of `functional.goodness.contrast` before its mean (a, b), and their slopes by the goodness (a, 2b)."""
    positive, negative = height.chunk(2, 1)
    if loss == "symba":
        gap = sharpness * (positive - negative)
        slope = sharpness * torch.sigmoid(-gap)
        return -F.logsigmoid(gap), torch.cat([-slope, slope], 1)
    margins = sharpness * torch.cat([threshold - positive, negative - threshold], 1)
    if loss == "margin":
        each, slope = (1 + margins).relu(), (margins > -1).to(margins.dtype)
    else:
        each, slope = -F.logsigmoid(-margins), torch.sigmoid(margins)
    slope = slope * (sharpness / 2)
    b = positive.shape[1]
    return (each[:, :b] + each[:, b:]) / 2, torch.cat([-slope[:, :b], slope[:, b:]], 1)


def permuted_rows(targets: Tensor, numbers: Tensor, rows: Rows) -> Tensor:
    """`functional.goodness.permuted_labels` of each lane's valid rows: (a, b) from targets and hash numbers (a, b)."""
    order = numbers.masked_fill(rows.valid == 0, _LAST).argsort(dim=1, stable=True)
    place = torch.arange(targets.shape[1], device=targets.device) + 1
    following = place.where(place < rows.valid.sum(1, keepdim=True), 0)
    return torch.empty_like(targets).scatter_(1, order, targets.gather(1, order.gather(1, following)))
