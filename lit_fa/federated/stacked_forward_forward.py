r"""Forward-Forward written out on stacked parameters: what each client does to each layer, without a graph.

With $G = \tfrac1u \sum_j h_j^2$ the gradient of a layer's loss at its output is $\partial L / \partial h = k\, c\, h$
(k = 2 / u, or 2 for the sum), c the loss's slope in G, so a layer needs its activities, its input and one number a
row.

The image is projected once: true, wrong and neutral label differ in c of the first layer's columns alone, and the
length by which a sample is divided is the same for every one-hot label.

Legend: a lanes, b rows, d inputs, u units, c classes; both halves together have 2 b rows, positive ones first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_fa.federated.dense import Dense
from lit_fa.federated.lanes import Lanes
from lit_fa.federated.updates import Updates
from lit_fa.federated.work import Learner
from lit_fa.functional.criteria import cross_entropy, one_hot
from lit_fa.functional.goodness import likely_labels, permuted_labels, sample_hash, wrong_labels
from lit_fa.rules.forward_forward import ForwardForward


def refusal_of_forward_forward(learner: Learner, chain: list[Dense]) -> str | None:
    """Why this rule on this chain is not written out, or None."""
    rule: ForwardForward = learner.rule
    if len(rule.taps.names) != len(chain) - 1:
        return "Forward-Forward is written out for one block a hidden layer"
    if getattr(rule, "label", "pixels") != "pixels" or rule.peer or rule.schedule != "simultaneous":
        return "peer normalisation, greedy training and labels as channels are not written out"
    if learner.criterion is not cross_entropy and rule.head == "softmax":
        return "the read-out is written out for cross_entropy alone"
    return None


class ForwardForwardStep:
    """One local step of all active clients."""

    def __init__(self, learner: Learner, chain: list[Dense], lanes: Lanes, updates: Updates):
        """chain: the hidden layers, then the head."""
        self.rule: ForwardForward = learner.rule
        self.hidden, self.head = chain[:-1], chain[-1]
        self.lanes, self.updates = lanes, updates
        self.steps = next(name for name in lanes.buffers if name.endswith("steps"))

    def __call__(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Inputs (a, b, d), labels (a, b), weights (a, b) of rows: 1 / rows, or 0 for padding."""
        rule, valid = self.rule, weights > 0
        begin, end = rule.position, rule.position + rule.classes
        numbers = self._numbers(x)
        x = x.clone()
        x[:, :, begin:end] = 0
        squares, weight = x.square().sum(-1, keepdim=True), self.lanes.params[self.hidden[0].weight_name]
        image, labels = torch.bmm(x, weight.mT), weight[:, :, begin:end].mT
        logits = read = None
        if rule.head == "softmax":
            read, logits = self._read_out(image, labels, squares, x.shape[2])
        wrong = self._wrong_labels(y, numbers, logits, valid)
        length = self._length(squares + rule.strength**2, x.shape[2])
        hot = one_hot(torch.cat([y, wrong], 1), image.new_zeros(rule.classes)) * rule.strength / length.repeat(1, 2, 1)
        h = torch.baddbmm((image / length).repeat(1, 2, 1), hot, labels)
        loss, heights = self._learn(h, hot, x / length, weights)
        correct = self._told_apart(y, wrong, heights)
        if logits is not None:
            loss, correct = loss + self._learn_read_out(read, logits, y, weights), logits.argmax(-1) == y
        self.lanes.buffers[self.steps].add_(1)
        return torch.stack([(loss.double() * valid).sum(), (correct & valid).sum().double(), valid.sum().double()])

    def _learn(self, z: Tensor, hot: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Every layer's step, from the first one's sum z (a, 2 b, u) without bias; loss (a, b) and each goodness."""
        first, inputs, loss, heights = self.hidden[0], hot, 0.0, []
        if first.bias:
            z += self.lanes.params[first.bias_name].unsqueeze(1)
        for number, layer in enumerate(self.hidden):
            h = layer.forward(inputs, self.lanes.params) if number else layer.activate(z)
            height, k = self._goodness(h)
            row_loss, slopes = self._slopes(height, h.shape[2])
            heights.append(height)
            loss = loss + row_loss
            passed_on = h / self._length(h.square().sum(-1, keepdim=True), h.shape[2])
            coefficient = (slopes * weights.repeat(1, 2)).mul_(k).unsqueeze(2)
            delta = layer.gate(h * coefficient, h) if layer.activation is not torch.nn.ReLU else h.mul_(coefficient)
            if number:
                self.updates.dense(layer, delta, inputs)
            else:
                self._first_layer(layer, delta, hot, x)
            inputs = passed_on
        return loss, heights

    def _first_layer(self, layer: Dense, delta: Tensor, hot: Tensor, x: Tensor) -> None:
        """The image's columns take the sum of both halves, b rows; the label's their own."""
        b = x.shape[1]
        both = delta[:, :b] + delta[:, b:]
        self.updates.dense(layer, both, x)
        self.updates.columns(layer, delta, hot, self.rule.position)

    def _goodness(self, h: Tensor) -> tuple[Tensor, float]:
        total = h.square().sum(-1)
        units = h.shape[2]
        return (total, 2.0) if self.rule.goodness == "sum" else (total / units, 2.0 / units)

    def _slopes(self, height: Tensor, units: int) -> tuple[Tensor, Tensor]:
        """Loss of each pair (a, b), and its slope in the goodness of both halves (a, 2 b); for one pair alone."""
        rule, (positive, negative) = self.rule, height.chunk(2, 1)
        tau = rule.sharpness
        if rule.loss == "symba":
            difference = tau * (positive - negative)
            slope = -tau * torch.sigmoid(-difference)
            return -F.logsigmoid(difference), torch.cat([slope, -slope], 1)
        usual = float(units) if rule.goodness == "sum" else 2.0
        threshold = usual if rule.threshold is None else rule.threshold
        above, below = tau * (positive - threshold), tau * (negative - threshold)
        if rule.loss == "margin":
            slopes = torch.cat([-(above < 1).to(height), (below > -1).to(height)], 1)
            return ((1 - above).relu() + (1 + below).relu()) / 2, slopes * (tau / 2)
        slopes = torch.cat([-torch.sigmoid(-above), torch.sigmoid(below)], 1)
        return -(F.logsigmoid(above) + F.logsigmoid(-below)) / 2, slopes * (tau / 2)

    def _length(self, squares: Tensor, entries: int) -> Tensor | float:
        kind = self.rule.normalise
        if kind == "none":
            return torch.ones_like(squares)
        return squares.sqrt() + 1e-4 if kind == "l2" else (squares / entries).sqrt() + 1e-8

    def _read_out(self, image: Tensor, labels: Tensor, squares: Tensor, entries: int) -> tuple[Tensor, Tensor]:
        """Last normalised activity and logits for the neutral label."""
        rule = self.rule
        part = rule.strength / rule.classes
        length = self._length(squares + rule.classes * part**2, entries)
        z = (image + part * labels.sum(1, keepdim=True)) / length
        if self.hidden[0].bias:
            z += self.lanes.params[self.hidden[0].bias_name].unsqueeze(1)
        h = self.hidden[0].activate(z)
        for layer in self.hidden[1:]:
            h = layer.forward(h / self._length(h.square().sum(-1, keepdim=True), h.shape[2]), self.lanes.params)
        h = h / self._length(h.square().sum(-1, keepdim=True), h.shape[2])
        return h, self.head.project(h, self.lanes.params)

    def _learn_read_out(self, h: Tensor, logits: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        log_p, target = logits.log_softmax(-1), one_hot(y, logits)
        loss = -(log_p * target).sum(-1)
        self.updates.dense(self.head, log_p.exp_().sub_(target).mul_(weights.unsqueeze(2)), h)
        return loss

    def _numbers(self, x: Tensor) -> Tensor:
        steps = self.lanes.buffers[self.steps].unsqueeze(1).expand(x.shape[:2])
        return sample_hash(x.flatten(0, 1), self.rule.seed, steps.reshape(-1)).view(x.shape[:2])

    def _wrong_labels(self, y: Tensor, numbers: Tensor, logits: Tensor | None, valid: Tensor) -> Tensor:
        rule = self.rule
        if rule.negatives == "uniform":
            return wrong_labels(y, numbers, rule.classes)
        if rule.negatives == "hard":
            flat = likely_labels(y.reshape(-1), numbers.reshape(-1), logits.flatten(0, 1))
            return flat.view(y.shape)
        rows, wrong = valid.sum(1).tolist(), y.clone()
        for lane, n in enumerate(rows):  # a ring through the lane's own samples
            wrong[lane, :n] = permuted_labels(y[lane, :n], numbers[lane, :n])
        return wrong

    def _told_apart(self, y: Tensor, wrong: Tensor, heights: list[Tensor]) -> Tensor:
        """Whether the true label scores higher than the wrong one; equal scores count for the smaller label."""
        positive, negative = sum(heights[self.rule._first_that_counts :]).chunk(2, 1)
        return (positive > negative) | ((positive == negative) & (y <= wrong))
