r"""Forward-Forward: the forward and backward pass are replaced by two forward passes, on positive and negative data.

Hinton 2022, arXiv:2212.13345. The label is written into the input. With $\hat h_{l-1}$ the normalised output of the
block below, a block has $h_l = \phi(W_l \hat h_{l-1} + b_l)$ and goodness $G_l = \tfrac1u\sum_j h_{lj}^2$. A local loss
trains it to have a higher goodness for the true label ($G^+$) than for a wrong one ($G^-$), for instance

$L_l = \log(1+e^{\theta-G_l^+}) + \log(1+e^{G_l^--\theta})$, $\quad
\partial L_l/\partial h_l^+ = -\tfrac2u\,\sigma(\theta-G_l^+)\,h_l^+$,

averaged over the 2n samples.

After every block there is a stop-gradient with normalisation, so that the input of the next block does not contain the
goodness of this one. Positive and negative samples are one batch of 2n. The criterion trains no hidden block. The head
of the network, which the paper does not have, is a softmax classifier, trained by the criterion on the last block's
normalised output for the neutral label (1/c everywhere). This is Hinton's one-pass classifier, except that his reads
earlier blocks too.

There are two backends for the gradient of a block, which tests compare: `closed_form`, the formula above as one product
of slope and output, and `autograd`, which differentiates the loss.

A step costs 4 F - 2 F_1, where F is the cost of a forward pass through the blocks and F_1 that of their first layer:
an image is projected once for both labels, and the labels cost as much as c additional inputs. If an image must be
projected for each label (see `layers.labels`), a step costs 4 F. Training the head adds F + 2 F_head. A prediction by
goodness costs c F - (c - 1) F_1. BatchNorm receives two batches per step: the neutral one, then positive with negative.

Departures: a wrong label is a function of seed, step and sample, see `functional.goodness`; peer normalisation compares
the means of the units over the batch, not running means.
"""

import logging
import math
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.criteria import one_hot
from lit_fa.functional.goodness import (
    Loss,
    Normalisation,
    contrast,
    goodness,
    likely_labels,
    local_loss,
    of_squares,
    peer_penalty,
    permuted_labels,
    sample_hash,
    two_label_logits,
    wrong_labels,
)
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.labels import LabelledInput
from lit_fa.layers.normalising import NormalisingTaps
from lit_fa.layers.observing import observing
from lit_fa.layers.taps import Blocks, find_blocks
from lit_fa.rules.base import (
    UNUSED,
    Backward,
    Batch,
    Criterion,
    Edits,
    Halves,
    LearningRule,
    Progress,
    State,
    Surrogate,
    Uncovered,
    provided,
    refuse,
)

log = logging.getLogger(__name__)


class ForwardForward(LearningRule):
    """Every block is trained to separate inputs with the true label from inputs with a wrong label.

    Args:
        loss: `threshold`, `symba` or `margin`, see `functional.goodness.contrast`.
        goodness: `mean` or `sum` of the squared activations.
        threshold: theta; None: 2 for the mean, the number of units for the sum. symba has none.
        sharpness: factor on goodness in the loss; None: 4 for symba, 1 otherwise.
        negatives: the distribution of the wrong label. `uniform`: over the c - 1 others; `permutation`: the label of
            another sample of the rank's batch; `hard`: the head's softmax over the others.
        normalise: the divisor of the inputs and outputs of blocks: `rms`, `l2` or `none`.
        label: `pixels`: the label overwrites c entries of the flattened input; `channels`: the label is c constant
            planes, or features, in addition to the input, with additional weights of the first layer, see
            `layers.labels`.
        strength: value of the label's entry, or plane.
        position: first of the c pixels.
        peer: weight of `functional.goodness.peer_penalty`; Hinton's code has 0.03. The means of the units are over the
            device's shard of the batch.
        schedule: `simultaneous`: all blocks at every step; `greedy`: one after another, each for an equal share of the
            run's steps. `greedy` needs a run of known length (not `max_epochs: -1`).
        blocks: the block boundaries: `block`, `layer`, or a list of module names or patterns; see
            `layers.taps.find_blocks`.
        head: `softmax`: trained as described above; `none`: frozen.
        predict_by: `goodness`: a forward pass for each of the c labels, whose goodness is the logit of the label;
            `softmax`: one pass, by the head.
        predict_from: first block whose goodness counts; None: the first of up to two blocks, the second of more.
        backend: `closed_form` or `autograd`; only the latter can be differentiated twice.
        seed: of the wrong labels, and of the weights of label channels.
        uncovered: what to do about tensors without gradient: `raise`, `warn` or `allow`.

    The loss of the surrogate is the sum over blocks and head. Its logits, from which Lightning logs the training
    accuracy, are those of the head. Without a head they are the goodness of the true and the wrong label, and a lower
    number for all others: the accuracy is between two labels, because one among c would cost c forward passes.

    Raises:
        UserError: an invalid option; at `install`, a network without a hidden block, an input too small for the label,
            or a first layer that cannot have label channels.

    >>> network, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 4)
    >>> rule = ForwardForward()
    >>> _ = rule.install(network, x, torch.nn.functional.cross_entropy)
    >>> rule.taps.names, rule.predict(network, x).shape
    (['1'], torch.Size([2, 2]))
    """

    taps: NormalisingTaps  # after `install`
    labelled: LabelledInput  # after `install`
    steps: Tensor
    active: Tensor
    paper: ClassVar[str] = "Hinton 2022, arXiv:2212.13345; SymBa: Lee & Song 2023, arXiv:2303.08418"

    def __init__(
        self,
        loss: Loss = "threshold",
        goodness: Literal["mean", "sum"] = "mean",
        threshold: float | None = None,
        sharpness: float | None = None,
        negatives: Literal["uniform", "permutation", "hard"] = "uniform",
        normalise: Normalisation = "rms",
        label: Literal["pixels", "channels"] = "pixels",
        strength: float = 1.0,
        position: int = 0,
        peer: float = 0.0,
        schedule: Literal["simultaneous", "greedy"] = "simultaneous",
        blocks: Blocks = "block",
        head: Literal["softmax", "none"] = "softmax",
        predict_by: Literal["goodness", "softmax"] = "goodness",
        predict_from: int | None = None,
        backend: Literal["closed_form", "autograd"] = "closed_form",
        seed: int = 0,
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        super().__init__()
        check_literals(ForwardForward, locals())
        for option, value in {"sharpness": sharpness, "strength": strength}.items():
            if value is not None and not value > 0:
                raise UserError(f"{option} is a number above 0, not {value}")
        for option, value in {"threshold": threshold, "peer": peer}.items():
            if value is not None and not value >= 0:
                raise UserError(f"{option} is a number of at least 0, not {value}")
        if label == "channels" and position:
            raise UserError("position is an option of label: pixels: remove it, or set label: pixels")
        if head == "none" and "softmax" in (predict_by, *["softmax"] * (negatives == "hard")):
            raise UserError("predict_by: softmax and negatives: hard need the head: set head: softmax")
        self.loss, self.goodness, self.threshold = loss, goodness, threshold
        self.sharpness = sharpness if sharpness is not None else 4.0 if loss == "symba" else 1.0
        self.negatives, self.normalise, self.backend = negatives, normalise, backend
        self.label, self.strength, self.position = label, strength, position
        self.peer, self.schedule, self.blocks, self.head = peer, schedule, blocks, head
        self.predict_by, self.predict_from, self.seed, self.uncovered = predict_by, predict_from, seed, uncovered
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("active", torch.zeros((), dtype=torch.int64))
        self.classes = 0
        self.owners: dict[str, int] = {}

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Add stop-gradients after the blocks and label channels to the first layer; freeze the head if `none`."""
        try:
            names = [block.name for block in find_blocks(network, example, self.blocks)]
        except ValueError as error:
            raise UserError(f"blocks: {error}") from None
        if not names:
            raise UserError("Forward-Forward needs a hidden block: name the ends of blocks with blocks: [...]")
        with observing(network), torch.no_grad():
            self.classes = network(example).shape[-1]
        self._check_sizes(math.prod(example.shape[1:]), len(names))
        position = self.position if self.label == "pixels" else None
        self.labelled = LabelledInput(network, example, self.classes, position, self.normalise, self.seed)
        self.taps = NormalisingTaps(network, names, self.normalise)
        neutral = example.new_ones(1, len(example), self.classes)
        self.owners = self.taps.owners(network, lambda: self.labelled(network, example, neutral))
        if self.schedule == "greedy" and self.taps.shared:
            raise UserError(
                f"schedule: greedy trains one block after another, and {min(self.taps.shared)} belongs to several "
                "blocks: set schedule: simultaneous, or do not share it"
            )
        if self.head == "none":
            for name, p in network.named_parameters():
                p.requires_grad_(p.requires_grad and self.owners.get(name) != len(names))
        untreated = self.inspect(network, example, criterion)
        refuse("no gradient reaches", untreated.unreached, UNUSED, uncovered=self.uncovered)
        log.info("forward-forward (%s, %s) after %s", self.loss, self.goodness, ", ".join(names))
        return untreated

    @property
    def follows_length(self) -> list[str]:
        """The greedy schedule."""
        return ["schedule: greedy"] if self.schedule == "greedy" else []

    @property
    def compares_samples(self) -> list[str]:
        """Wrong labels from other samples, and means of units over the batch."""
        permuted = ["negatives: permutation"] if self.negatives == "permutation" else []
        return [*permuted, *([f"peer: {self.peer:g}"] if self.peer else [])]

    def parts(self, network: nn.Module, example: Tensor) -> Halves[int]:
        """Every block and the head have their own loss."""
        return Halves(self.owners, {})

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """The sum of the losses of blocks and head; no backward path leads from one block to another."""
        losses: list[Tensor] = []
        logits = self._learn(network, batch, criterion, losses.append)
        value = reduce(torch.add, losses) if losses else logits.new_zeros(())  # a stage without a block
        return Surrogate(value, value.detach(), logits)

    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Backward) -> Surrogate:
        """As `surrogate`, block by block."""
        losses: list[Tensor] = []

        def learn(loss: Tensor) -> None:
            backward(loss)
            losses.append(loss.detach())

        logits = self._learn(network, batch, criterion, learn)
        loss = reduce(torch.add, losses)
        return Surrogate(loss, loss, logits)

    @provided(lambda rule: rule.schedule == "greedy")
    def edit_gradients(self, params: State, grads: State, progress: Progress) -> Edits:
        """With the greedy schedule, remove the gradients of all blocks except the active one."""
        waiting = {*range(len(self.taps.names))} - {int(self.active)}
        return Halves({name: None for name in grads.network if self.owners.get(name) in waiting}, {})

    def after_step(self, params: State, buffers: State, progress: Progress) -> tuple[State, State]:
        """Count the step, on which the wrong labels depend; set the active block."""
        turn = progress.turn(len(self.taps.names)) if self.schedule == "greedy" else 0
        own = {"steps": buffers.rule["steps"] + 1, "active": torch.full_like(buffers.rule["active"], turn)}
        return Halves({}, {}), Halves({}, own)

    def evolving(self, buffers: State) -> State:
        """The number of steps and the active block."""
        return Halves({}, {name: buffers.rule[name] for name in ("steps", "active")})

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """(n, c): the goodness with each label, summed over the blocks that count; or the logits of the head."""
        if self.predict_by == "softmax":
            return self._head_logits(network, inputs)
        hot = self.strength * torch.eye(self.classes, dtype=inputs.dtype, device=inputs.device).unsqueeze(1)
        # at most n rows at a time, so that memory does not grow with the number of labels
        parts = inputs.split(max(1, len(inputs) // self.classes))
        scores = [self._goodness(network, part, hot.expand(-1, len(part), -1)) for part in parts]
        return torch.cat(scores, 1).t()

    def wrong_labels(self, inputs: Tensor, targets: Tensor, logits: Tensor | None = None) -> Tensor:
        """The wrong labels (n,) of this step for inputs (n, ...) and targets (n,); `hard` needs logits (n, c)."""
        numbers = sample_hash(inputs, self.seed, self.steps)
        if self.negatives == "permutation":
            return permuted_labels(targets, numbers)
        if self.negatives == "hard" and logits is not None:
            return likely_labels(targets, numbers, logits)
        return wrong_labels(targets, numbers, self.classes)

    def _learn(self, network: nn.Module, batch: Batch, criterion: Criterion, learn: Backward) -> Tensor:
        """Call `learn` with the loss of the head, then of each block; returns logits (n, c), detached."""
        inputs, targets = batch
        logits = None
        if self.head == "softmax":
            logits = self._head_logits(network, inputs)
            learn(criterion(logits, targets))
            logits = logits.detach()
        wrong = self.wrong_labels(inputs, targets, logits)
        labels = self.strength * one_hot(torch.stack([targets, wrong]), inputs.new_zeros(self.classes))
        counted: list[Tensor] = []  # the sum so far, of the blocks that count in a prediction

        def visit(name: str, output: Tensor, squares: Tensor) -> None:
            number, loss = self.taps.names.index(name), self._loss(output, squares)
            learn(loss * (self.active == number) if self.schedule == "greedy" else loss)
            if logits is None and number >= self.first_counted:
                own = of_squares(squares, math.prod(output.shape[1:]), self.goodness)
                counted[:] = [counted[0] + own] if counted else [own]

        self.taps.visit_all(visit, lambda: self.labelled(network, inputs, labels))
        if logits is not None:
            return logits
        total = counted[0] if counted else inputs.new_full((2 * len(inputs),), math.nan)
        return two_label_logits(targets, wrong, total, self.classes)

    def contrast_options(self, units: int) -> tuple[Loss, float, float]:
        """Loss, threshold and sharpness of `functional.goodness.contrast` for a block of this number of units."""
        usual = float(units) if self.goodness == "sum" else 2.0
        return self.loss, usual if self.threshold is None else self.threshold, self.sharpness

    def _loss(self, output: Tensor, squares: Tensor) -> Tensor:
        options = self.contrast_options(math.prod(output.shape[1:]))
        if self.backend == "closed_form":
            loss = local_loss(output, squares, *options, self.goodness)
        else:
            positive, negative = goodness(output, self.goodness).chunk(2)
            loss = contrast(positive, negative, *options)
        return loss + self.peer * peer_penalty(output.chunk(2)[0]) if self.peer else loss

    def _goodness(self, network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """(k, n): goodness, summed over the blocks that count, of inputs (n, ...) with labels (k, n, c)."""
        goodnesses: list[Tensor] = []
        self.taps.visit_all(
            lambda _name, output, _squares: goodnesses.append(goodness(output, self.goodness)),
            lambda: self.labelled(network, inputs, labels),
        )
        return reduce(torch.add, goodnesses[self.first_counted :]).view(len(labels), -1)

    def _head_logits(self, network: nn.Module, inputs: Tensor) -> Tensor:
        neutral = inputs.new_full((1, len(inputs), self.classes), self.strength / self.classes)
        with self.taps.visited_by(lambda _name, _output, _squares: None):
            return self.labelled(network, inputs, neutral)

    @property
    def cuts(self) -> list[str]:
        """The whole network: with labels in the inputs even the head has other activations than under backprop."""
        return [""]

    @property
    def first_counted(self) -> int:
        """The first block whose goodness counts in a prediction."""
        usual = 0 if len(self.taps.names) <= 2 else 1
        return usual if self.predict_from is None else self.predict_from

    def _check_sizes(self, entries: int, blocks: int) -> None:
        if self.classes < 2:
            raise UserError("Forward-Forward needs a network with at least two classes")
        if self.label == "pixels" and not 0 <= self.position <= entries - self.classes:
            raise UserError(
                f"position: {self.classes} labels from entry {self.position} on do not fit {entries} inputs: "
                "set another position, or label: channels"
            )
        if self.predict_from is not None and not 0 <= self.predict_from < blocks:
            raise UserError(f"predict_from is a block from 0 to {blocks - 1}, not {self.predict_from}")
