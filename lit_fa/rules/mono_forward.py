r"""Mono-Forward: every layer predicts the label by a matrix of its own, and learns from this prediction alone.

Gong, Li & Abdulla 2025, arXiv:2501.09238. Layer i has activations $a_i = \mathrm{ReLU}(W_i\,\mathrm{stop}(a_{i-1})
+ c_i)$ and scores $G_i = M_i a_i$ with a learned matrix $M_i$ (c, units). The scalar is the sum of the layers' losses,

$S = \sum_i \mathrm{CE}(M_i a_i, y)$, $\qquad \partial S/\partial M_i = \tfrac1n (p_i - y)\,a_i^\top$, $\quad
\delta_i = M_i^\top (p_i - y) \odot \phi'$, $\quad p_i = \mathrm{softmax}(G_i)$.

The prediction is that of the last layer. Its matrix is the head of the network, so no boundary lies between the last
hidden block and the head, and with one hidden block the rule is backpropagation.

The schedule is that of the paper, in which all layers learn from every batch, or that of its re-examination (Spyra &
Dzwinel, arXiv:2511.01061), which trains one layer after the other (`schedule`). With `gradient: global` the losses are
the same, but error also passes between the layers: backpropagation with deep supervision, the re-examination's control.

Departures: a map is flattened before M, which the sources do not state, and tokens are averaged. The greedy schedule
gives every layer the same share of the run's steps, while the re-examination stops each layer by its validation loss
and also trains a matrix on the input, which the prediction does not use. The head has a bias if the network's has one.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.layers.auxiliary import Unit, readout
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.taps import Blocks
from lit_fa.rules.base import Backward, Batch, Criterion, Edits, Halves, Progress, State, Surrogate, Uncovered, provided
from lit_fa.rules.local_losses import Channels, LocalLosses


class MonoForward(LocalLosses):
    """Every block but the last has a linear layer without bias, whose prediction trains both.

    Args:
        schedule: `simultaneous`: all blocks at every step; `greedy`: one after another, each for an equal share of the
            run's steps. `greedy` needs a run of known length (not `max_epochs: -1`).
        gradient: `local`: a block learns from its own loss; `global`: from its own and all later ones.
        blocks: the block boundaries: `block`, `layer`, or a list of module names or patterns; see
            `layers.taps.find_blocks`.
        seed: of M; that of a block depends only on the seed and the block's name.
        channels: the position of the channels in a map: `first` or `last`.
        uncovered: what to do about tensors without gradient: `raise`, `warn` or `allow`.

    Raises:
        UserError: an invalid option; at `install`, a network without a hidden block, or a weight that several blocks
            share under the greedy schedule.
    """

    active: Tensor  # the number of the block that learns under the greedy schedule
    owners: Halves[int]
    paper: ClassVar[str] = "Gong, Li & Abdulla 2025, arXiv:2501.09238; Spyra & Dzwinel 2025, arXiv:2511.01061"

    def __init__(
        self,
        schedule: Literal["simultaneous", "greedy"] = "simultaneous",
        gradient: Literal["local", "global"] = "local",
        blocks: Blocks = "block",
        seed: int = 0,
        channels: Channels = "first",
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        super().__init__(blocks, seed, channels, uncovered)
        check_literals(MonoForward, locals())
        if schedule == "greedy" and gradient == "global":
            raise UserError("schedule: greedy trains one block at a time, so no error passes: set gradient: local")
        self.schedule, self.gradient = schedule, gradient
        self.cut = gradient == "local"
        self.register_buffer("active", torch.zeros((), dtype=torch.int64))

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Add stop-gradients after the blocks, and create their matrices M."""
        untreated = super().install(network, example, criterion)
        if self.schedule == "simultaneous":
            return untreated
        self.owners = super().parts(network, example)
        if self.taps.shared:
            raise UserError(
                f"schedule: greedy trains one block after another, and {min(self.taps.shared)} belongs to several "
                "blocks: set schedule: simultaneous, or do not share it"
            )
        return untreated

    @property
    def follows_length(self) -> list[str]:
        """The greedy schedule."""
        return ["schedule: greedy"] if self.schedule == "greedy" else []

    def parts(self, network: nn.Module, example: Tensor) -> Halves[int]:
        """A block and its matrix share a loss; with global gradients all losses train the first block."""
        return super().parts(network, example) if self.gradient == "local" else Halves({}, {})

    @provided(lambda rule: rule.gradient == "local")
    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Backward) -> Surrogate:
        """As `surrogate`, block by block."""
        return super().stream(network, batch, criterion, backward)

    @provided(lambda rule: rule.schedule == "greedy")
    def edit_gradients(self, params: State, grads: State, progress: Progress) -> Edits:
        """With the greedy schedule, remove the gradients of all blocks except the active one."""
        waiting = {*range(len(self.taps.names) + 1)} - {int(self.active)}
        return Halves(
            {name: None for name in grads.network if self.owners.network.get(name) in waiting},
            {name: None for name in grads.rule if self.owners.rule.get(name) in waiting},
        )

    @provided(lambda rule: rule.schedule == "greedy")
    def after_step(self, params: State, buffers: State, progress: Progress) -> tuple[State, State]:
        """Set the block whose turn it is."""
        turn = torch.full_like(self.active, progress.turn(len(self.taps.names) + 1))
        return Halves({}, {}), Halves({}, {"active": turn})

    def evolving(self, buffers: State) -> State:
        """The active block."""
        return Halves({}, {"active": buffers.rule["active"]})

    def _learn(self, network: nn.Module, batch: Batch, criterion: Criterion, learn: Backward) -> Surrogate:
        if self.schedule == "simultaneous":
            return super()._learn(network, batch, criterion, learn)
        numbers = iter([*self.taps.visited, len(self.taps.names)])
        return super()._learn(network, batch, criterion, lambda loss: learn(loss * (self.active == next(numbers))))

    def _with_loss(self, described: list[Unit]) -> list[Unit]:
        return super()._with_loss(described)[:-1]

    def _build(self, number: int, described: list[Unit]) -> nn.Module:
        name, shape = described[number].name, described[number].shape
        return self._drawn(lambda: readout(shape, self.classes), name)

    def _loss(self, auxiliary: nn.Module, features: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        return criterion(auxiliary(features), targets)
