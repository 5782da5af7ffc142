"""Batches in an order that depends on seed and epoch alone, and that can be taken up again at any batch."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor

from datamodules.errors import DataError, require
from datamodules.generators import Draws, generator
from datamodules.image_set import Batch, ImageSet
from datamodules.text_set import TextSet

Prepare = Callable[[Tensor, Draws], Tensor]
POOL = 50  # batches of texts that are sorted by length together


class BatchLoader:
    """Iterable of (images, labels int64) over an image set: one pass is one epoch.

    `batch_size` is the global batch: of every batch, rank r of R takes the images r, r + R, ..., so two ranks see
    together what one sees alone. A last batch smaller than the number of ranks is joined to the one before when not
    shuffling (evaluation); in training a rank without a share of it is given rank 0's, of which `own` says that it does
    not count.

    Texts come in batches of like length, since a batch is padded to its longest: see `alike`.

    Lightning calls `set_epoch` through `sampler`, and saves `state_dict` in every checkpoint: a run that was stopped
    in the middle of an epoch goes on with the very next batch.

    Args:
        image_set: where the images, or texts, are.
        batch_size: images per global batch.
        prepare: last step on every batch of images; gets the batch and its `Draws`. None for images that are ready.
        shuffle: a new order for every epoch; False keeps the order of the set.
        seed: with the epoch, decides the order and the draws.
        drop_last: leave out a last batch that is not full.
        rank, world_size: this process and how many there are.

    Raises:
        DataError: no batch can be made.
    """

    def __init__(
        self,
        image_set: ImageSet | TextSet,
        batch_size: int,
        *,
        prepare: Prepare | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.image_set, self.batch_size, self.prepare = image_set, batch_size, prepare
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.position = 0  # batches delivered in this epoch
        self._start = 0  # where the next pass begins: not 0 only after load_state_dict
        self.drop_last = drop_last
        self._bounds = batch_bounds(len(image_set), batch_size, world_size, drop_last=drop_last, join=not shuffle)

    def __len__(self) -> int:
        """Batches per epoch, the same on all ranks."""
        return len(self._bounds)

    def smallest(self, batches: int | None = None) -> int:
        """Images of the smallest of the first `batches` batches (None: of all) on any rank."""
        bounds = self._bounds[:batches] or [(0, self.world_size)]
        return min(max(1, (end - begin) // self.world_size) for begin, end in bounds)

    def own(self, number: int) -> int:
        """How many images of a batch of an epoch count on this rank; 0: they are another rank's."""
        begin, end = self._bounds[number]
        return len(range(begin + self.rank, end, self.world_size))

    def whole(self) -> Self:
        """A loader of the same batches that gives all images of each, as one process alone would see them."""
        other = copy.copy(self)
        other.rank, other.world_size, other.position, other._start = 0, 1, 0, 0
        other._bounds = batch_bounds(
            len(self.image_set), self.batch_size, 1, drop_last=self.drop_last, join=not self.shuffle
        )
        return other

    def __iter__(self) -> Iterator[Batch]:
        """One epoch; the order is read at the first batch, after Lightning has called `set_epoch`."""
        start, self._start = self._start, 0
        order = self.order()
        bounds = list(enumerate(self._bounds))[start:]
        shares = [order[begin + self._giver(begin, end) : end : self.world_size] for _, (begin, end) in bounds]
        for (number, (begin, end)), (images, labels) in zip(bounds, self.image_set.batches(shares), strict=True):
            if self.prepare is not None:
                rank = self._giver(begin, end)
                draws = Draws(self.seed, self.epoch, number, end - begin, rank, self.world_size)
                images = self.prepare(images, draws)
            self.position = number + 1
            yield images, labels

    def shares(self) -> list[Tensor]:
        """Indices into the set of every batch of this rank, in this epoch's order."""
        order = self.order()
        return [order[begin + self._giver(begin, end) : end : self.world_size] for begin, end in self._bounds]

    def order(self) -> Tensor:
        """Indices (n,) of this epoch's order, drawn from (seed, epoch) on the CPU."""
        n, device = len(self.image_set), self.image_set.labels.device
        lengths = self.image_set.lengths.cpu() if isinstance(self.image_set, TextSet) else None
        if not self.shuffle:
            return (torch.arange(n) if lengths is None else lengths.argsort(stable=True)).to(device)
        stream = generator("order", self.seed, self.epoch)
        order = torch.randperm(n, generator=stream)
        return (order if lengths is None else alike(order, lengths, self.batch_size, stream)).to(device)

    @property
    def sampler(self) -> "BatchLoader":
        """Itself: where Lightning looks for `set_epoch`."""
        return self

    @property
    def batch_sampler(self) -> None:
        """None; Lightning reads it to find out whether an evaluation loader shuffles."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; another one than the checkpoint's starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where this loader stands, with what the position means something for."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the last delivered batch.

        Raises:
            DataError: the checkpoint lies in mid-epoch and was made with other batches.
        """
        self.epoch, self.position = state["epoch"], state["position"]
        self._start = self.position if self.position < len(self) else 0
        changed = [name for name, value in self._identity().items() if state.get(name, value) != value]
        if changed and self._start:
            before = ", ".join(f"{name}={state[name]}" for name in changed)
            raise DataError(
                f"the checkpoint is in mid-epoch of a run with {before}: resume it with the same data options"
            )

    def _giver(self, begin: int, end: int) -> int:
        """The rank whose share of a batch this rank is given."""
        return self.rank if begin + self.rank < end else 0

    def _identity(self) -> dict[str, int]:
        return {"images": len(self.image_set), "batch_size": self.batch_size, "seed": self.seed}


def alike(order: Tensor, lengths: Tensor, batch_size: int, stream: torch.Generator) -> Tensor:
    """A random order (n,) rearranged so that the texts of a batch have like lengths.

    Pools of `POOL` batches are sorted by length, and the batches then put into a random order. A rest that fills no
    batch is left out of this and stays last, so that it is no special choice of texts where it is dropped.
    """
    full = len(order) // batch_size
    body, rest = order[: full * batch_size], order[full * batch_size :]
    pools = [pool[lengths[pool].argsort(stable=True)] for pool in body.split(POOL * batch_size)]
    batches = torch.cat(pools).view(full, batch_size)
    return torch.cat([batches[torch.randperm(full, generator=stream)].flatten(), rest])


def batch_bounds(n: int, batch_size: int, world_size: int, *, drop_last: bool, join: bool) -> list[tuple[int, int]]:
    """Begin and end of every global batch of n images; with `join` every one has an image for each rank.

    >>> batch_bounds(9, 4, world_size=2, drop_last=False, join=True)
    [(0, 4), (4, 9)]
    >>> batch_bounds(9, 4, world_size=2, drop_last=False, join=False)
    [(0, 4), (4, 8), (8, 9)]
    """
    require(batch_size >= world_size, f"batch_size={batch_size} is split over {world_size} devices: make it larger")
    require(n >= world_size, f"{n} images are too few for {world_size} devices: use fewer devices")
    require(n >= batch_size or not drop_last, f"drop_last leaves no batch of {batch_size} out of {n}: lower batch_size")
    bounds = [(begin, min(begin + batch_size, n)) for begin in range(0, n, batch_size)]
    rest = n % batch_size
    if rest and drop_last:
        bounds.pop()
    elif rest and rest < world_size and join:
        bounds.pop()
        bounds[-1] = (bounds[-1][0], n)
    return bounds
