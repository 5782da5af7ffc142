"""What the training step and the callbacks ask of a strategy whose ranks are stages of one network."""

from abc import ABC, abstractmethod

import lightning as L
from torch import Tensor


class StageStrategy(ABC):
    """Every rank trains the parameters of its own stage; `lit_fa.parallel.strategy` implements it."""

    @abstractmethod
    def gather(self) -> None:
        """Copy the parameters and buffers of every stage to all ranks."""

    @abstractmethod
    def end_epoch(self) -> None:
        """Apply the updates that are late."""

    @abstractmethod
    def any_rank(self, signum: int) -> int:
        """The largest number of a signal that a rank has received, possibly some batches ago; 0 for none."""

    @abstractmethod
    def total_norm(self, grads: list[Tensor]) -> Tensor:
        """The norm of these gradients together with those of all other stages."""


def stages_of(trainer: L.Trainer) -> StageStrategy | None:
    """The strategy, if its ranks are stages of one network."""
    return trainer.strategy if isinstance(trainer.strategy, StageStrategy) else None
