"""Random numbers by name: every draw has its own generator, so the global seed decides nothing about the data."""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator whose stream depends on `purpose` and `numbers` alone.

    Drawing on the CPU makes the order of batches the same on every device and every rank.

    >>> first, again = (torch.rand(2, generator=generator("order", 0, 3)) for _ in range(2))
    >>> bool((first == again).all())
    True
    """
    digest = blake2b(repr((purpose, *numbers)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one global batch, one row per image, of which this rank sees its own rows.

    Every rank draws for the whole batch and keeps its share: two ranks augment the images as one would.

    Args:
        seed, epoch, batch: what the numbers depend on.
        size: images in the global batch.
        rank, world_size: which rows are kept (rank, rank + world_size, ...).
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
        """A seed for a transform that draws for itself; the same on all ranks."""
        return generator(purpose, self.seed, self.epoch, self.batch).initial_seed()
