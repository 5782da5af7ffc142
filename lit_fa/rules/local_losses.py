r"""Local losses: "single-layer sub-networks and two different supervised loss functions" replace the error from above.

There is a stop-gradient after every block. An auxiliary network, which belongs to the rule, reads the output h of a
block, and its loss trains the block and the auxiliary network together. The true loss trains the layers after the last
block boundary. With $\mathcal{L}$ the criterion (cross-entropy in the papers), S the similarity matrix of a batch
(`functional.similarity`) and y the label,

* PredSim (Nøkland & Eidnes 2019): $L_l = (1-\beta)\,\mathcal{L}(D(\mathrm{pool}(h)), y)
  + \beta\,\frac{1}{n^2}\|S(f(h)) - S(\mathrm{onehot}\,y)\|^2$, with D linear and f a linear layer or 3x3 convolution;
* AugLocal (Ma, Wu, Si & Tan 2024): $L_l = \mathcal{L}(A_l(h), y)$, where $A_l$ has $d_l$ layers, copied in type and
  width from later blocks, and a classifier; the depth falls from d to $(1-\tau)d + \tau$ along the L blocks,
  $d_l = \max(1, \mathrm{round}(d\,(1 - \tau\tfrac{l}{L-2}) + \tau\tfrac{l}{L-2}))$, $l = 0 \dots L-2$.

The sum of these losses is the scalar: no input gradient crosses a block boundary. `loss` is the true loss.

Departures of both rules: a residual block is one block, and h is the output at the block boundary, therefore after a
pool or dropout that follows the layer. The code of PredSim reads h before it (name activations in `blocks` to do so
here). S and batch normalisation compare the samples of one part of a batch that is split over ranks or accumulated, so
`accumulate: 2` differs from a batch of twice the size. Departures of AugLocal: a residual block is copied as one
convolution with batch normalisation; a linear block reads the average of a map.
"""

import logging
from collections.abc import Callable
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.criteria import one_hot
from lit_fa.functional.feedback import named_generator
from lit_fa.functional.pyramid import pyramidal_depth, sampled_blocks
from lit_fa.functional.similarity import similarity_matching
from lit_fa.layers.auxiliary import Unit, auxiliary_network, drawn, pooled_classifier, units
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.observing import observing
from lit_fa.layers.taps import Blocks, Taps, block_key, find_blocks
from lit_fa.rules.base import UNUSED, Backward, Batch, Criterion, Halves, LearningRule, Surrogate, Uncovered, refuse

log = logging.getLogger(__name__)
Channels = Literal["first", "last"]


class LocalLosses(LearningRule):
    """Base class of rules with local losses, which define the auxiliary network (`_build`) and its loss (`_loss`).

    Args:
        blocks: the block boundaries: `block`, `layer`, or a list of module names or patterns; see
            `layers.taps.find_blocks`.
        seed: of the auxiliary networks; that of a block depends only on the seed and the block's name.
        channels: the position of the channels in a map: `first` or `last`.
        uncovered: what to do about tensors without gradient: `raise`, `warn` or `allow`.

    Raises:
        UserError: an invalid option; at `install`, a network without a hidden block.
    """

    taps: Taps  # after `install`
    cut: bool = True  # whether there is a stop-gradient after every block

    def __init__(self, blocks: Blocks, seed: int, channels: Channels, uncovered: Uncovered):
        """See the class."""
        super().__init__()
        check_literals(LocalLosses, locals())
        self.blocks, self.seed, self.channels, self.uncovered = blocks, seed, channels, uncovered
        self.auxiliary = nn.ModuleDict()
        self.units: dict[str, Unit] = {}
        self.classes = 0

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Add stop-gradients after the blocks, and create the auxiliary networks."""
        try:
            described = units(network, example, find_blocks(network, example, self.blocks), self.channels)
        except ValueError as error:
            raise UserError(f"blocks: {error}") from None
        with observing(network), torch.no_grad():
            self.classes = network(example).shape[-1]
        like = next(p for p in network.parameters() if p.is_floating_point())
        for number, unit in enumerate(self._with_loss(described)):
            self.auxiliary[block_key(unit.name)] = self._build(number, described).to(like.device, like.dtype)
            self.units[unit.name] = unit
        self.taps = Taps(network, [*self.units], self.cut)
        untreated = self.inspect(network, example, criterion)
        refuse("no gradient reaches", untreated.unreached, UNUSED, uncovered=self.uncovered)
        size, name = sum(p.numel() for p in self.auxiliary.parameters()), type(self).__name__
        log.info("%s (seed %d, %d auxiliary weights) after %s", name, self.seed, size, ", ".join(self.units))
        return untreated

    def parts(self, network: nn.Module, example: Tensor) -> Halves[int]:
        """A block and its auxiliary network share a loss; the last part has the true loss."""
        keys = [*self.auxiliary]
        own = {f"auxiliary.{n}": keys.index(n.split(".")[0]) for n, _ in self.auxiliary.named_parameters()}
        return Halves(self.taps.owners(network, lambda: network(example)), own)

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """The sum of the blocks' losses and the true loss; no backward path leads from one block to another."""
        losses: list[Tensor] = []
        surrogate = self._learn(network, batch, criterion, losses.append)
        return surrogate._replace(value=reduce(torch.add, losses))

    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Backward) -> Surrogate:
        """As `surrogate`, block by block."""
        return self._learn(network, batch, criterion, backward)

    def _learn(self, network: nn.Module, batch: Batch, criterion: Criterion, learn: Backward) -> Surrogate:
        """Call `learn` with each block's loss, in the order of the forward pass, and last with the true loss."""
        inputs, targets = batch

        def visit(name: str, output: Tensor) -> None:
            features = self.units[name].features(output, self.channels)
            learn(self._loss(self.auxiliary[block_key(name)], features, targets, criterion))

        with self.taps.visited_by(visit):
            logits = network(inputs)
        loss = criterion(logits, targets)
        learn(loss)
        return Surrogate(loss.detach(), loss.detach(), logits.detach())

    def _with_loss(self, described: list[Unit]) -> list[Unit]:
        """The blocks that have a local loss."""
        if not described:
            raise UserError("local losses need a hidden block: name the ends of blocks with blocks: [...]")
        return described

    def _build(self, number: int, described: list[Unit]) -> nn.Module:
        """The auxiliary network of a block."""
        raise NotImplementedError

    def _loss(self, auxiliary: nn.Module, features: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        """The local loss of a block, a scalar."""
        raise NotImplementedError

    def _drawn(self, make: Callable[[], nn.Module], *names: str) -> nn.Module:
        return drawn(make, named_generator(self.seed, *names))


class PredSim(LocalLosses):
    """Every hidden block predicts the label and matches the similarity of labels, with one layer for each.

    D has zero weights at first, as in the code, so that at first only f trains the block. The bias of D and f are
    initialised as in torch. f keeps the width: after a vector of d units it has d x d weights.

    Args:
        loss: `predsim`, or one of its parts: `pred` (beta 0) or `sim` (beta 1), without the layer of the other. On
            several devices the similarity compares the samples of each device's shard of a batch.
        beta: weight of the similarity matching in `predsim`, from 0 to 1.
        decoder_units: a map is average-pooled until D reads at most this number of units
            (`layers.auxiliary.pool_window`); vectors are not pooled.
        blocks: the block boundaries, see `LocalLosses`.
        seed: of D's bias and f.
        channels: `first` or `last`.
        uncovered: `raise`, `warn` or `allow`.

    Raises:
        UserError: an invalid option; at `install`, a network without a hidden block.

    >>> network, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 4)
    >>> rule = PredSim()
    >>> _ = rule.install(network, x, nn.functional.cross_entropy)
    >>> len([*rule.parameters()])  # a decoder with bias, and the layer of the similarity
    3
    """

    paper: ClassVar[str] = "Nøkland & Eidnes 2019, arXiv:1901.06656"

    def __init__(
        self,
        loss: Literal["predsim", "pred", "sim"] = "predsim",
        beta: float = 0.99,
        decoder_units: int = 4096,
        blocks: Blocks = "block",
        seed: int = 0,
        channels: Channels = "first",
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        super().__init__(blocks, seed, channels, uncovered)
        check_literals(PredSim, locals())
        if not 0 <= beta <= 1:
            raise UserError(f"beta is a number from 0 to 1, not {beta}")
        if decoder_units < 1:
            raise UserError(f"decoder_units is a positive number of units, not {decoder_units}")
        self.loss, self.decoder_units = loss, decoder_units
        self.beta = {"predsim": beta, "pred": 0.0, "sim": 1.0}[loss]

    @property
    def compares_samples(self) -> list[str]:
        """The similarity matrix, if there is one."""
        return [f"loss: {self.loss}"] if self.beta else []

    def _build(self, number: int, described: list[Unit]) -> nn.Module:
        name, shape = described[number].name, described[number].shape
        make: dict[str, Callable[[], nn.Module]] = {
            "prediction": lambda: pooled_classifier(shape, self.classes, self.decoder_units),
            "similarity": lambda: _same_width(shape),
        }
        parts = {"pred": ["prediction"], "sim": ["similarity"], "predsim": [*make]}[self.loss]
        return nn.ModuleDict({part: self._drawn(make[part], name, part) for part in parts})

    def _loss(self, auxiliary: nn.Module, features: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        layers, terms = dict(auxiliary.named_children()), []
        if "prediction" in layers:
            terms.append((1 - self.beta) * criterion(layers["prediction"](features), targets))
        if "similarity" in layers:
            hot = one_hot(targets, features.new_zeros(self.classes))
            terms.append(self.beta * similarity_matching(layers["similarity"](features), hot))
        return reduce(torch.add, terms)


class AugLocal(LocalLosses):
    """Every block except the last predicts the label through a small copy of later blocks.

    The last block has no stop-gradient after it: the true loss trains it together with the head, as in the code. The
    copied blocks are spaced evenly between the block and the end; near the end there may be fewer than $d_l$.

    Args:
        depth: d, number of layers of the first auxiliary network, without its classifier. The paper tries 1 to 9.
        pyramid: tau, the reduction of the depth from first to last block: 0: all have d layers; 1: the last has one.
        blocks: the block boundaries, see `LocalLosses`.
        seed: of the auxiliary networks.
        channels: `first` or `last`.
        uncovered: `raise`, `warn` or `allow`.

    Raises:
        UserError: an invalid option; at `install`, a network without a hidden block.
    """

    paper: ClassVar[str] = "Ma et al. 2024 (ICLR), openreview.net/forum?id=Qbf1hy8b7m"

    def __init__(
        self,
        depth: int = 2,
        pyramid: float = 0.5,
        blocks: Blocks = "block",
        seed: int = 0,
        channels: Channels = "first",
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        super().__init__(blocks, seed, channels, uncovered)
        if depth < 1:
            raise UserError(f"depth is a positive number of layers, not {depth}")
        if not 0 <= pyramid <= 1:
            raise UserError(f"pyramid is a number from 0 to 1, not {pyramid}")
        self.depth, self.pyramid = depth, pyramid

    @property
    def compares_samples(self) -> list[str]:
        """Batch normalisation, if a convolution is copied."""
        norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.auxiliary.modules())
        return ["BatchNorm of auxiliary networks"] if norms else []

    def _with_loss(self, described: list[Unit]) -> list[Unit]:
        if len(described) < 2:
            raise UserError("AugLocal copies later blocks: name the ends of two or more hidden blocks in blocks")
        return described[:-1]

    def _build(self, number: int, described: list[Unit]) -> nn.Module:
        depth = pyramidal_depth(number, len(described), self.depth, self.pyramid)
        sources = [described[k] for k in sampled_blocks(number, len(described), depth)]
        unit = described[number]
        return self._drawn(lambda: auxiliary_network(unit.shape, sources, self.classes), unit.name)

    def _loss(self, auxiliary: nn.Module, features: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        return criterion(auxiliary(features), targets)


def _same_width(shape: tuple[int, ...]) -> nn.Module:
    if len(shape) == 3:
        return nn.Conv2d(shape[0], shape[0], 3, padding=1, bias=False)
    return nn.Linear(shape[0], shape[0], bias=False)
