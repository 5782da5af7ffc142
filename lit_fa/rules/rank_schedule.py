"""When singular values are made sparse, and when ranks are taken away."""

import math
from dataclasses import dataclass
from typing import Literal

from lit_fa.errors import UserError, check_literals
from lit_fa.rules.base import Progress


@dataclass(frozen=True)
class Hoyer:
    """The Hoyer term of s: in every `every`-th epoch until a share `until` of training is done.

    SSA, slides: "every 10 epochs for the first 30 % of the epochs", read as: in epochs 0, 10, 20 ...; 1 is throughout.

    Args:
        weight: factor on the norm's ratio; the value is an assumption.
        every: epochs.
        until: 0 to 1.
    """

    weight: float = 1e-3
    every: int = 10
    until: float = 0.3

    def __post_init__(self):
        """Check."""
        if self.weight < 0 or self.every < 1 or not 0 <= self.until <= 1:
            raise UserError(f"hoyer needs weight >= 0, every >= 1 and until in 0 to 1, not {self}")

    def strength(self, progress: Progress) -> float:
        """The factor in the step that comes."""
        on = progress.fraction < self.until and progress.epoch % self.every == 0
        return self.weight if on else 0.0


@dataclass(frozen=True)
class Pruning:
    """Ranks that keep a share of a layer's energy, the sum of squared singular values.

    Keeping 95 % of what is left, again and again, keeps 0.95^n: after 140 epochs a thousandth. So the energy that
    counts is by default that of the first pruning.

    Args:
        energy: the share that is kept.
        every: epochs between two prunings.
        after: the first is at the end of the first epoch with this share of training behind it; the last epoch ends
            without one.
        of: `first`: of the energy at the first pruning; `current`: of what the layer has.
        floor: the smallest rank; None: as many as there are classes, at least 4.
        keep: names or patterns of layers that are never pruned; None: the first and the last.
        physical: take pruned columns out at the end of the epoch (on one device); else they are zeros until export.
    """

    energy: float = 0.95
    every: int = 10
    after: float = 0.3
    of: Literal["first", "current"] = "first"
    floor: int | None = None
    keep: list[str] | None = None
    physical: bool = True

    def __post_init__(self):
        """Check."""
        check_literals(type(self), vars(self))
        if not 0 < self.energy <= 1:
            raise UserError(f"pruning keeps a share of the energy between 0 and 1, not {self.energy}")
        if self.every < 1 or not 0 <= self.after < 1:
            raise UserError(f"pruning needs every >= 1 and after in 0 to 1, not {self.every} and {self.after}")
        if self.floor is not None and self.floor < 1:
            raise UserError(f"a layer of rank {self.floor} passes nothing: pruning.floor is at least 1")

    def first(self, epochs: int) -> int:
        """Epochs before the first pruning."""
        return max(1, math.ceil(self.after * epochs))

    def times(self, epochs: int) -> int:
        """How many prunings a training of so many epochs has."""
        return max(0, math.ceil((epochs - self.first(epochs)) / self.every))

    def due(self, progress: Progress) -> bool:
        """Whether the epoch that ends with this step ends with a pruning."""
        epochs, done = progress.total_epochs, progress.epoch + 1
        if not progress.epoch_ends or epochs is None or not self.first(epochs) <= done < epochs:
            return False
        return (done - self.first(epochs)) % self.every == 0

    def is_first(self, progress: Progress) -> bool:
        """Whether this pruning is the first."""
        return progress.epoch + 1 == self.first(progress.total_epochs)

    def check(self, progress: Progress) -> None:
        """Refuse a cadence that takes most of the energy, once the number of epochs is known.

        Raises:
            UserError: with what would be left.
        """
        if self.of == "first" or progress.total_epochs is None:
            return
        left = self.energy ** (times := self.times(progress.total_epochs))
        if left < 0.5:
            raise UserError(
                f"pruning to {self.energy:g} of the current energy {times} times leaves {left:.2g} of it and empties "
                "the layers: use of: first, a larger every, or an energy nearer to 1"
            )
