"""Random generators seeded by purpose: no draw of the data depends on the global seed."""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


def seed_of(purpose: str, *numbers: int, size: int = 8) -> int:
    """An integer of `size` bytes: the hash of `purpose` and `numbers`."""
    digest = blake2b(repr((purpose, *numbers)).encode(), digest_size=size).digest()
    return int.from_bytes(digest)


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator whose stream depends on `purpose` and `numbers` only.

    It is a CPU generator so that batches have the same order on every device and every rank.

    >>> first, again = (torch.rand(2, generator=generator("order", 0, 3)) for _ in range(2))
    >>> bool((first == again).all())
    True
    """
    return torch.Generator().manual_seed(seed_of(purpose, *numbers) >> 1)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch, one row per image, restricted to the rows of this rank.

    Every rank draws for the whole batch and keeps its own rows, so the images are augmented as in one process.

    Args:
        seed, epoch, batch: determine the numbers.
        size: images in the batch, over all ranks.
        rank, world_size: the rows rank, rank + world_size, ... are kept.
    """

    seed: int
    epoch: int
    batch: int
    size: int
    rank: int = 0
    world_size: int = 1

    def integers(self, purpose: str, high: int, columns: int = 1) -> Tensor:
        """(images of this rank, columns) integers in [0, high)."""
        stream = generator(purpose, self.seed, self.epoch, self.batch)
        return torch.randint(high, (self.size, columns), generator=stream)[self.rank :: self.world_size]

    def number(self, purpose: str) -> int:
        """A seed for a transform that draws its own random numbers; equal on all ranks."""
        return generator(purpose, self.seed, self.epoch, self.batch).initial_seed()
