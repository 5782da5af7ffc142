"""The schedules of the sparsity term and of pruning."""

import math
from dataclasses import dataclass
from typing import Literal

from lit_fa.errors import UserError, check_literals
from lit_fa.rules.base import Progress


@dataclass(frozen=True)
class Hoyer:
    """The Hoyer term of s: in every `every`-th epoch of the first share `until` of training.

    SSA, slides: "every 10 epochs for the first 30 % of the epochs", read as: in epochs 0, 10, 20 ...; with 1 in all.

    Args:
        weight: factor on the ratio of the norms; the default is an assumption.
        every: number of epochs.
        until: share of the run, 0 to 1.

    Raises:
        UserError: a value out of its range.
    """

    weight: float = 1e-3
    every: int = 10
    until: float = 0.3

    def __post_init__(self) -> None:
        if self.weight < 0 or self.every < 1 or not 0 <= self.until <= 1:
            raise UserError(f"hoyer needs weight >= 0, every >= 1 and until in 0 to 1, not {self}")

    def strength(self, progress: Progress) -> float:
        """The factor in the next step."""
        on = progress.fraction < self.until and progress.epoch % self.every == 0
        return self.weight if on else 0.0


@dataclass(frozen=True)
class Pruning:
    """Pruning of ranks, so that a layer keeps a share of its energy, the sum of squared singular values.

    If each pruning kept 95 % of the current energy, 0.95^n would be left: a thousandth after 140 epochs. Therefore the
    default refers to the energy at the first pruning.

    Args:
        energy: the share that remains.
        every: epochs between two prunings.
        after: the first pruning is at the end of the first epoch after this share of training. The last epoch ends
            without pruning.
        of: `first`: share of the energy at the first pruning; `current`: of the layer's current energy.
        floor: the smallest rank; None: the number of classes, but at least 4.
        keep: names or patterns of layers that are never pruned; None: the first and the last.
        physical: remove pruned columns at the end of the epoch (on one device); otherwise they are zeros until export.

    Raises:
        UserError: a value out of its range.
    """

    energy: float = 0.95
    every: int = 10
    after: float = 0.3
    of: Literal["first", "current"] = "first"
    floor: int | None = None
    keep: list[str] | None = None
    physical: bool = True

    def __post_init__(self) -> None:
        check_literals(type(self), vars(self))
        if not 0 < self.energy <= 1:
            raise UserError(f"pruning.energy is a share from 0 to 1, not {self.energy}")
        if self.every < 1 or not 0 <= self.after < 1:
            raise UserError(f"pruning needs every >= 1 and after in 0 to 1, not {self.every} and {self.after}")
        if self.floor is not None and self.floor < 1:
            raise UserError(f"pruning.floor is a rank of at least 1, not {self.floor}")

    def first(self, epochs: int) -> int:
        """Epochs before the first pruning."""
        return max(1, math.ceil(self.after * epochs))

    def times(self, epochs: int) -> int:
        """Number of prunings in a run of this many epochs."""
        return max(0, math.ceil((epochs - self.first(epochs)) / self.every))

    def due(self, progress: Progress) -> bool:
        """Whether ranks are pruned after this step, the last of its epoch."""
        epochs, done = progress.total_epochs, progress.epoch + 1
        if not progress.epoch_ends or epochs is None or not self.first(epochs) <= done < epochs:
            return False
        return (done - self.first(epochs)) % self.every == 0

    def is_first(self, progress: Progress) -> bool:
        """Whether this pruning is the first."""
        return progress.total_epochs is not None and progress.epoch + 1 == self.first(progress.total_epochs)

    def check(self, progress: Progress) -> None:
        """Check the schedule when the number of epochs is known.

        Raises:
            UserError: less than half of the energy would remain.
        """
        if self.of == "first" or progress.total_epochs is None:
            return
        left = self.energy ** (times := self.times(progress.total_epochs))
        if left < 0.5:
            raise UserError(
                f"pruning to {self.energy:g} of the current energy {times} times leaves {left:.2g} of it: "
                "set pruning.of: first, a larger every, or an energy nearer to 1"
            )
