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


def first_permuted(n: int, k: int, generator: torch.Generator) -> list[int]:
    """The first k numbers of ``torch.randperm(n, generator=generator)``, in a time that does not depend on n.

    torch shuffles by Fisher and Yates from the front with one draw of 32 bits for each place, so k draws fix the first
    k places. Below 10,000 numbers, and above the 2^32 / 20 at which torch takes other draws, torch shuffles itself.

    >>> first_permuted(10**6, 3, generator("cohort", 0, 0)) == torch.randperm(
    ...     10**6, generator=generator("cohort", 0, 0)
    ... )[:3].tolist()
    True
    """
    if not 10_000 <= n < 2**32 // 20:
        return torch.randperm(n, generator=generator)[:k].tolist()
    pairs = torch.empty((k + 1) // 2, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    draws = [half for pair in pairs.tolist() for half in ((pair >> 32) & (2**32 - 1), pair & (2**32 - 1))]
    moved: dict[int, int] = {}
    chosen = []
    for place in range(k):
        other = place + (draws[place] % (n - place) if place < n - 1 else 0)
        chosen.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return chosen


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
