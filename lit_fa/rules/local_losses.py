r"""Local losses: "single-layer sub-networks and two different supervised loss functions" replace the error from above.

The network is cut behind blocks. A block's output h is read by an auxiliary network that belongs to the rule, whose
loss trains block and auxiliary network together; what goes on is h without its history. Behind the last cut stands the
true loss. With $\mathcal{L}$ the criterion (cross-entropy in the papers), S the similarity matrix of a batch
(`functional.similarity`) and y the label,

* PredSim (Nøkland & Eidnes 2019): $L_l = (1-\beta)\,\mathcal{L}(D(\mathrm{pool}(h)), y)
  + \beta\,\frac{1}{n^2}\|S(f(h)) - S(\mathrm{onehot}\,y)\|^2$, with D linear and f a linear layer or 3x3 convolution;
* AugLocal (Ma, Wu, Si & Tan 2024): $L_l = \mathcal{L}(A_l(h), y)$, where $A_l$ has $d_l$ layers, copied in type and
  width from later blocks, and a classifier; the depth falls from d to $(1-\tau)d + \tau$ along the L blocks,
  $d_l = \max(1, \mathrm{round}(d\,(1 - \tau\tfrac{l}{L-2}) + \tau\tfrac{l}{L-2}))$, $l = 0 \dots L-2$.

The sum of these losses is the scalar: no input gradient crosses a cut. `loss` is the true one behind the last cut.

Departures, both rules: the unit is the block, a residual block included, and h is its output where it is cut, hence
behind a pool or dropout that follows in the chain, which the code of PredSim reads in front of (name activations in
`blocks` to do so here). Where S or batch normalisation compares samples, a batch that is shared by ranks or accumulated
is compared part by part, so that `accumulate: 2` is then not twice the batch. Of AugLocal: a residual block is copied
as one convolution with batch normalisation, not as a residual block; a linear block reads the average of a map.
"""

import logging
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.criteria import one_hot
from lit_fa.functional.feedback import named_generator
from lit_fa.functional.pyramid import pyramidal_depth, sampled_blocks
from lit_fa.functional.similarity import similarity_matching
from lit_fa.layers.auxiliary import Unit, auxiliary_network, drawn, read_out, units
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.observing import observing
from lit_fa.layers.taps import Blocks, Taps, block_key, find_blocks
from lit_fa.rules.base import Batch, Criterion, Halves, LearningRule, Surrogate, Uncovered, refuse

log = logging.getLogger(__name__)
Channels = Literal["first", "last"]


class LocalLosses(LearningRule):
    """What the rules of this file share. A rule says what it builds for a block (`_build`) and its loss (`_loss`).

    Args:
        blocks: where to cut: `block`, `layer`, or a list of module names or patterns; see `layers.taps.find_blocks`.
        seed: of the auxiliary networks; a block's depends on the seed and its name alone.
        channels: which dimension of a map holds the channels: `first` or `last`.
        uncovered: what to do about tensors without gradient: `raise`, `warn` or `allow`.
    """

    def __init__(self, blocks: Blocks, seed: int, channels: Channels, uncovered: Uncovered):
        """See the class."""
        super().__init__()
        check_literals(__class__, locals())
        self.blocks, self.seed, self.channels, self.uncovered = blocks, seed, channels, uncovered
        self.auxiliary = nn.ModuleDict()
        self.units: dict[str, Unit] = {}
        self.classes = 0
        self.taps: Taps | None = None

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Cut behind the blocks and draw what reads them; refuse a network that has nothing to cut."""
        try:
            found = units(network, example, find_blocks(network, example, self.blocks), self.channels)
        except ValueError as error:
            raise UserError(f"blocks: {error}") from None
        with observing(network), torch.no_grad():
            self.classes = network(example).shape[-1]
        like = next(p for p in network.parameters() if p.is_floating_point())
        for number, unit in enumerate(self._cut(found)):
            self.auxiliary[block_key(unit.name)] = self._build(number, found).to(like.device, like.dtype)
            self.units[unit.name] = unit
        self.taps = Taps(network, [*self.units])
        covered = self.inspect(network, example, criterion)
        refuse("no gradient reaches", covered.unreached, "They lie in no path to a loss.", uncovered=self.uncovered)
        size = sum(p.numel() for p in self.auxiliary.parameters())
        log.info(
            "%s (seed %d, %d weights of its own) behind %s",
            type(self).__name__, self.seed, size, ", ".join(self.units),
        )  # fmt: skip
        return covered

    def parts(self, network: nn.Module, example: Tensor) -> Halves[int]:
        """A block and its auxiliary network share a loss; what follows the last cut has the true one."""
        keys = [*self.auxiliary]
        own = {f"auxiliary.{n}": keys.index(n.split(".")[0]) for n, _ in self.auxiliary.named_parameters()}
        return Halves(self.taps.owners(network, lambda: network(example)), own)

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """The sum of the blocks' losses and the true one; no path leads from one to another."""
        losses: list[Tensor] = []
        surrogate = self._learn(network, batch, criterion, losses.append)
        return surrogate._replace(value=sum(losses))

    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Callable) -> Surrogate:
        """One block's activations at a time; the same products."""
        return self._learn(network, batch, criterion, backward)

    def _learn(self, network: nn.Module, batch: Batch, criterion: Criterion, learn: Callable) -> Surrogate:
        """Hand each block's loss to `learn` as the forward pass meets it, the true one last."""
        inputs, targets = batch

        def judge(name: str, output: Tensor) -> None:
            features = self.units[name].features(output, self.channels)
            learn(self._loss(self.auxiliary[block_key(name)], features, targets, criterion))

        with self.taps.visited_by(judge):
            logits = network(inputs)
        loss = criterion(logits, targets)
        learn(loss)
        return Surrogate(loss.detach(), loss.detach(), logits.detach())

    def _cut(self, found: list[Unit]) -> list[Unit]:
        if not found:
            raise UserError("local losses need a hidden block to cut behind: name some with blocks: [...]")
        return found

    def _build(self, number: int, found: list[Unit]) -> nn.Module:
        raise NotImplementedError

    def _loss(self, auxiliary: nn.Module, features: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        raise NotImplementedError

    def _drawn(self, make: Callable[[], nn.Module], *names: str) -> nn.Module:
        return drawn(make, named_generator(self.seed, *names))


class PredSim(LocalLosses):
    """Every hidden block predicts the label and arranges samples by label, each by a layer of its own.

    D starts at zero weights, as in the code, so that at first f alone moves the block; D's bias and f are drawn like
    torch's own layers. f keeps the width: behind a vector of d units it has d x d weights.

    Args:
        loss: `predsim`, or one of its parts: `pred` (beta 0) or `sim` (beta 1), without the other's layer. On several
            devices the similarity compares the samples of each device's own share of a batch.
        beta: weight of the similarity matching in `predsim`, from 0 to 1.
        decoder_units: a map is average-pooled until D reads no more units than this (`layers.auxiliary.pool_window`);
            vectors are read as they are.
        blocks: where to cut, see `LocalLosses`.
        seed: of D's bias and f.
        channels: `first` or `last`.
        uncovered: `raise`, `warn` or `allow`.
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
        check_literals(__class__, locals())
        if not 0 <= beta <= 1:
            raise UserError(f"beta is a weight from 0 to 1, not {beta}")
        if decoder_units < 1:
            raise UserError(f"decoder_units is a positive number of units, not {decoder_units}")
        self.loss, self.decoder_units = loss, decoder_units
        self.beta = {"predsim": beta, "pred": 0.0, "sim": 1.0}[loss]

    @property
    def compares_samples(self) -> list[str]:
        """The similarity matrix."""
        return [f"loss: {self.loss}"] if self.beta else []

    def _build(self, number: int, found: list[Unit]) -> nn.Module:
        name, shape = found[number].name, found[number].shape
        make: dict[str, Callable[[], nn.Module]] = {
            "prediction": lambda: read_out(shape, self.classes, self.decoder_units),
            "similarity": lambda: _same_width(shape),
        }
        parts = {"pred": ["prediction"], "sim": ["similarity"], "predsim": [*make]}[self.loss]
        return nn.ModuleDict({part: self._drawn(make[part], name, part) for part in parts})

    def _loss(self, auxiliary: nn.Module, features: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        terms: list[Tensor] = []
        if "prediction" in auxiliary:
            terms.append((1 - self.beta) * criterion(auxiliary["prediction"](features), targets))
        if "similarity" in auxiliary:
            hot = one_hot(targets, features.new_zeros(self.classes))
            terms.append(self.beta * similarity_matching(auxiliary["similarity"](features), hot))
        return sum(terms)


class AugLocal(LocalLosses):
    """Every block but the last predicts the label through a small network made like the blocks that follow it.

    The last of the blocks that `blocks` names is not cut: it learns with the head from the true loss, as in the code.
    The copied blocks lie evenly between the block and the end; near the end there may be fewer than $d_l$.

    Args:
        depth: d, layers of the first block's auxiliary network, its classifier apart. The paper tries 1 to 9.
        pyramid: tau, how much shallower the last ones are: 0 is all d, 1 is one layer at the end.
        blocks: the units of the network, see `LocalLosses`.
        seed: of the auxiliary networks.
        channels: `first` or `last`.
        uncovered: `raise`, `warn` or `allow`.
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
            raise UserError(f"pyramid is a fraction from 0 to 1, not {pyramid}")
        self.depth, self.pyramid = depth, pyramid

    @property
    def compares_samples(self) -> list[str]:
        """Batch normalisation in copied convolutions."""
        norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.auxiliary.modules())
        return ["BatchNorm of auxiliary networks"] if norms else []

    def _cut(self, found: list[Unit]) -> list[Unit]:
        if len(found) < 2:
            raise UserError(
                "AugLocal cuts between hidden blocks and copies later ones: name two or more with blocks: [...]"
            )
        return found[:-1]

    def _build(self, number: int, found: list[Unit]) -> nn.Module:
        depth = pyramidal_depth(number, len(found), self.depth, self.pyramid)
        sources = [found[k] for k in sampled_blocks(number, len(found), depth)]
        unit = found[number]
        return self._drawn(lambda: auxiliary_network(unit.shape, sources, self.classes), unit.name)

    def _loss(self, auxiliary: nn.Module, features: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        return criterion(auxiliary(features), targets)


def _same_width(shape: tuple[int, ...]) -> nn.Module:
    if len(shape) == 3:
        return nn.Conv2d(shape[0], shape[0], 3, padding=1, bias=False)
    return nn.Linear(shape[0], shape[0], bias=False)
