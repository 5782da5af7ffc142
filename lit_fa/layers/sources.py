r"""Sources of the backward matrix of a layer: drawn, derived from the weight, copied, or learned.

A source is a small frozen dataclass with four pure functions. `draw` returns the tensor that the layer stores when the
rule is installed, `matrix` returns the matrix of the backward pass, `after_step` and `on_round_start` renew the stored
tensor. The layer has the tensor (`<layer>.feedback.weight`, of the weight's shape), the source has the options.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from lit_fa.errors import UserError, check_literals
from lit_fa.functional import feedback as formula
from lit_fa.functional.conservation import Law


class FeedbackSource:
    """Base class of all sources. It stores nothing and uses the weight in the backward pass, which is backprop.

    Weights and matrices are (o, i) or (o, i, *k), with o outputs, i inputs and a kernel k.

    Raises:
        UserError: an option of a source that has none of its valid values.
    """

    @property
    def trained(self) -> bool:
        """Whether the stored matrix is a parameter."""
        return False

    @property
    def follows(self) -> bool:
        """Whether a trained matrix receives the increments of the weight; otherwise the rule's scalar trains it."""
        return self.trained

    @property
    def evolves(self) -> bool:
        """Whether `after_step` changes the stored tensor."""
        return False

    @property
    def renews(self) -> bool:
        """Whether `on_round_start` changes the stored tensor, as a function of the weight, the seed and the round."""
        return False

    @property
    def law(self) -> Law:
        """The conservation law of each neuron, see `lit_fa.functional.conservation`."""
        return "balance"

    def __post_init__(self) -> None:
        """Check the options of a source that is a dataclass."""
        check_literals(type(self), vars(self))

    def draw(self, weight: Tensor, generator: Generator) -> Tensor | None:
        """The tensor to store, float32 on the CPU with the shape of `weight`, or None."""
        return None

    def gain(self, weight: Tensor) -> float:
        """A constant factor on the matrix, computed when the rule is installed."""
        return 1.0

    def matrix(self, weight: Tensor, stored: Tensor | None) -> Tensor:
        """The backward matrix without `gain`, with the shape of `weight`. Called during the backward pass."""
        return weight

    def after_step(self, weight: Tensor, stored: Tensor, generator: Generator) -> Tensor:
        """The tensor to store after an optimiser step."""
        return stored

    def on_round_start(self, weight: Tensor, stored: Tensor, generator: Generator) -> Tensor:
        """The tensor to store when a client receives the server's weight; `generator` is of seed, layer and round."""
        return stored


@dataclass(frozen=True)
class RandomFeedback(FeedbackSource):
    """Fixed random B (Lillicrap et al. 2016).

    Args:
        init: distribution of B, see `functional.feedback.draw`.
        scale: positive factor on B.
        seed: of B; that of a layer depends only on the seed and the layer's name.

    Raises:
        UserError: an unknown `init`, or a scale that is not a positive number.
    """

    init: formula.Init = "xavier_uniform"
    scale: float = 1.0
    seed: int = 0

    @property
    def law(self) -> Law:  # noqa: D102
        return "feedback"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < float("inf"):
            raise UserError(f"the scale of feedback is a positive number, not {self.scale}")

    def draw(self, weight: Tensor, generator: Generator) -> Tensor | None:  # noqa: D102
        return formula.draw(weight.shape, self.init, generator, gain=self.scale)

    def matrix(self, weight: Tensor, stored: Tensor | None) -> Tensor:  # noqa: D102
        assert stored is not None
        return stored


@dataclass(frozen=True)
class SignFeedback(FeedbackSource):
    """Sign symmetry (Liao et al. 2016): B has the signs of the current W.

    Args:
        variant: `usf`: c sign(W); `brsf`: |M| sign(W), M redrawn at every step; `frsf`: |M| sign(W), M fixed.
        scale: c of `usf`, see `functional.feedback.sign_scale`; for the others a number, the factor on |M|.
        init: of M, see `functional.feedback.draw`.
        seed: of M.

    Raises:
        UserError: an unknown value, or a scale that is not a positive number.

    >>> SignFeedback().matrix(torch.tensor([[2.0, -3.0]]), None)
    tensor([[ 1., -1.]])
    """

    variant: Literal["usf", "brsf", "frsf"] = "usf"
    scale: Literal["xavier", "fan_in"] | float = "xavier"
    init: formula.Init = "xavier_uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scale not in ("xavier", "fan_in") and (isinstance(self.scale, str) or self.scale <= 0):
            raise UserError(f"scale is xavier, fan_in or a positive number, not {self.scale!r}")
        super().__post_init__()

    @property
    def evolves(self) -> bool:  # noqa: D102
        return self.variant == "brsf"

    @property
    def law(self) -> Law:  # noqa: D102
        return "sign" if self.variant == "usf" else "path"

    def draw(self, weight: Tensor, generator: Generator) -> Tensor | None:  # noqa: D102
        return None if self.variant == "usf" else formula.draw(weight.shape, self.init, generator).abs_()

    def gain(self, weight: Tensor) -> float:  # noqa: D102
        if self.variant == "usf":
            return formula.sign_scale(weight.shape, self.scale)
        return 1.0 if isinstance(self.scale, str) else float(self.scale)

    def matrix(self, weight: Tensor, stored: Tensor | None) -> Tensor:  # noqa: D102
        return weight.sign() if stored is None else weight.sign() * stored

    def after_step(self, weight: Tensor, stored: Tensor, generator: Generator) -> Tensor:  # noqa: D102
        return formula.draw(weight.shape, self.init, generator).abs_().to(stored) if self.evolves else stored


@dataclass(frozen=True)
class KolenPollackFeedback(RandomFeedback):
    """B starts at random and receives the same increments as W; weight decay makes them converge (Akrout et al. 2019).

    B is a parameter of the layer whose gradient is that of W, so any optimiser applies the same increment to both. B
    also has W's learning rate and gradient clipping, and is frozen with W (`modules.groups`). Without `weight_decay` in
    the optimiser W - B is constant.
    """

    @property
    def trained(self) -> bool:  # noqa: D102
        return True

    @property
    def law(self) -> Law:  # noqa: D102
        return "kolen_pollack"


@dataclass(frozen=True)
class WeightMirrorFeedback(RandomFeedback):
    """B is estimated from the layer's response to noise, with one batch of noise after every step (Akrout et al. 2019).

    Args:
        rate: eta_B, on the sum over the patterns.
        noise: half width of the uniform noise.
        patterns: number of noise patterns per step.
        activation: of the layer's response to noise, `linear` or `relu`.
        decay: lambda of B <- (1 - lambda) B.
        rescale: `norm` sets |B| to |W| after every step, `none` does not. (The authors' code rescales a loop variable,
            which has no effect.)
    """

    rate: float = 0.01
    noise: float = 0.05
    patterns: int = 128
    activation: Literal["linear", "relu"] = "linear"
    decay: float = 0.0
    rescale: Literal["norm", "none"] = "norm"

    @property
    def evolves(self) -> bool:  # noqa: D102
        return True

    @property
    def law(self) -> Law:  # noqa: D102
        return "path"

    def __post_init__(self) -> None:
        super().__post_init__()
        _in_range("rate", self.rate, self.rate > 0, "a number above 0")
        _in_range("noise", self.noise, self.noise > 0, "a number above 0")
        _in_range("patterns", self.patterns, 1 <= self.patterns <= 10**6, "from 1 to 1,000,000")
        _in_range("decay", self.decay, 0 <= self.decay <= 1, "a share from 0 to 1")

    def after_step(self, weight: Tensor, stored: Tensor, generator: Generator) -> Tensor:  # noqa: D102
        noise = torch.rand(self.patterns, weight[0].numel(), generator=generator).sub_(0.5).mul_(2 * self.noise)
        learned = formula.mirror(
            stored, weight, noise.to(stored), rate=self.rate, activation=self.activation, decay=self.decay
        )
        return formula.rescale_matrix(learned, weight) if self.rescale == "norm" else learned


@dataclass(frozen=True)
class AdaptiveFeedback(RandomFeedback):
    r"""Three readings of "adaFA" of 2306.01870, whose definition could not be read. None is claimed to be the paper's.

    Args:
        reading: `increment`: B receives W's increments (as Kolen-Pollack, without its own decay);
            `norm`: B = sign(W) scaled to the norm of W; `mixture`: B <- (1 - rate) B + rate W after every step.
        rate: of the mixture.
    """

    reading: Literal["increment", "norm", "mixture"] = "mixture"
    rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        _in_range("rate", self.rate, 0 <= self.rate <= 1, "a share from 0 to 1")

    @property
    def trained(self) -> bool:  # noqa: D102
        return self.reading == "increment"

    @property
    def evolves(self) -> bool:  # noqa: D102
        return self.reading == "mixture"

    @property
    def law(self) -> Law:  # noqa: D102
        return "kolen_pollack" if self.trained else "path"

    def draw(self, weight: Tensor, generator: Generator) -> Tensor | None:  # noqa: D102
        return None if self.reading == "norm" else super().draw(weight, generator)

    def matrix(self, weight: Tensor, stored: Tensor | None) -> Tensor:  # noqa: D102
        return formula.norm_matched_sign(weight) if stored is None else stored

    def after_step(self, weight: Tensor, stored: Tensor, generator: Generator) -> Tensor:  # noqa: D102
        return formula.mix(stored, weight, self.rate) if self.evolves else stored


@dataclass(frozen=True)
class SnapshotFeedback(FeedbackSource):
    """B is a copy of W, made when the rule is installed and again at the start of every round (FLFA, 2512.12762).

    Args:
        rescale: `row` scales each row of the copy to the norm of the same row of the current W, `matrix` scales to the
            Frobenius norm of W, `none` does not scale.

    >>> SnapshotFeedback().matrix(torch.tensor([[0.0, 2.0]]), stored=torch.tensor([[3.0, 4.0]]))
    tensor([[1.2000, 1.6000]])
    """

    rescale: formula.Rescale = "row"

    @property
    def renews(self) -> bool:  # noqa: D102
        return True

    @property
    def law(self) -> Law:  # noqa: D102
        return "feedback" if self.rescale == "none" else "path"

    def draw(self, weight: Tensor, generator: Generator) -> Tensor:  # noqa: D102
        return weight.detach().clone()

    def matrix(self, weight: Tensor, stored: Tensor | None) -> Tensor:  # noqa: D102
        assert stored is not None
        return formula.RESCALES[self.rescale](stored, weight)

    def on_round_start(self, weight: Tensor, stored: Tensor, generator: Generator) -> Tensor:  # noqa: D102
        return weight.detach().clone()


@dataclass(frozen=True)
class SharedRandomFeedback(RandomFeedback):
    """Random B in place of the copy, the same for all clients: FLFA's ablation (2512.12762).

    Args:
        rescale: as for `SnapshotFeedback`.
        redraw: `never`: one B for all rounds; `round`: a new one for each.
    """

    init: formula.Init = "kaiming_normal"
    rescale: formula.Rescale = "row"
    redraw: Literal["never", "round"] = "never"

    @property
    def renews(self) -> bool:  # noqa: D102
        return self.redraw == "round"

    @property
    def law(self) -> Law:  # noqa: D102
        return "feedback" if self.rescale == "none" else "path"

    def matrix(self, weight: Tensor, stored: Tensor | None) -> Tensor:  # noqa: D102
        assert stored is not None
        return formula.RESCALES[self.rescale](stored, weight)

    def on_round_start(self, weight: Tensor, stored: Tensor, generator: Generator) -> Tensor:  # noqa: D102
        if not self.renews:
            return stored
        return formula.draw(weight.shape, self.init, generator, gain=self.scale).to(stored)


def _in_range(name: str, value: float, valid: bool, expected: str) -> None:
    if not valid:
        raise UserError(f"{name} of the feedback is {expected}, not {value}")


SourceName = Literal["random", "sign", "kolen_pollack", "weight_mirror", "adaptive", "snapshot", "shared_random"]
SOURCES: dict[SourceName, type[FeedbackSource]] = {
    "random": RandomFeedback,
    "sign": SignFeedback,
    "kolen_pollack": KolenPollackFeedback,
    "weight_mirror": WeightMirrorFeedback,
    "adaptive": AdaptiveFeedback,
    "snapshot": SnapshotFeedback,
    "shared_random": SharedRandomFeedback,
}
