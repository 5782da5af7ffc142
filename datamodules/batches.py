"""Batches in an order that depends on seed and epoch only. Iteration can be resumed at any batch."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor

from lit_fa.datamodules.errors import DataError, require
from lit_fa.datamodules.generators import Draws, generator
from lit_fa.datamodules.image_set import Batch, ImageSet
from lit_fa.datamodules.text_set import TextSet

Prepare = Callable[[Tensor, Draws], Tensor]
POOL = 50  # batches of texts that are sorted by length together


class BatchLoader:
    """Iterable of (images, labels int64) over an image set; one pass is one epoch.

    `batch_size` counts the images of all ranks together. Rank r of R takes the images r, r + R, ... of every batch, so
    the ranks together see the batches that one process would see. The last batch may have fewer images than there are
    ranks. In evaluation (no shuffling) it is then joined to the batch before. In training a rank without an image of
    its own receives the share of rank 0, and `own` returns 0 for it.

    The texts of a batch have similar lengths, because a batch is padded to its longest text: see `alike`.

    Lightning calls `set_epoch` through `sampler` and saves `state_dict` in every checkpoint. A run that was stopped in
    the middle of an epoch resumes with the next batch.

    Args:
        image_set: the images or texts.
        batch_size: images per batch, over all ranks.
        prepare: last step on every batch of images; receives the batch and its `Draws`. None if images need none.
        shuffle: draw a new order for every epoch; False keeps the order of the set.
        seed: together with the epoch, determines the order and the draws.
        drop_last: omit a last batch that is not full.
        rank, world_size: index of this process and number of processes.

    Raises:
        DataError: the set is too small for one batch.
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
        self._start = 0  # first batch of the next pass; not 0 only after load_state_dict
        self.drop_last = drop_last
        self._bounds = batch_bounds(len(image_set), batch_size, world_size, drop_last=drop_last, join=not shuffle)

    def __len__(self) -> int:
        """Batches per epoch, the same on all ranks."""
        return len(self._bounds)

    def smallest(self, batches: int | None = None) -> int:
        """Number of images in the smallest of the first `batches` batches (None: of all) on any rank."""
        bounds = self._bounds[:batches] or [(0, self.world_size)]
        return min(max(1, (end - begin) // self.world_size) for begin, end in bounds)

    def own(self, number: int) -> int:
        """Number of images of batch `number` that belong to this rank; 0: it receives the share of rank 0."""
        begin, end = self._bounds[number]
        return len(range(begin + self.rank, end, self.world_size))

    def whole(self) -> Self:
        """A loader of the same batches for one process: every batch has the images of all ranks."""
        loader = copy.copy(self)
        loader.rank, loader.world_size, loader.position, loader._start = 0, 1, 0, 0
        loader._bounds = batch_bounds(
            len(self.image_set), self.batch_size, 1, drop_last=self.drop_last, join=not self.shuffle
        )
        return loader

    def __iter__(self) -> Iterator[Batch]:
        """One epoch; the order is computed at the first batch, after Lightning has called `set_epoch`."""
        start, self._start = self._start, 0
        order = self.order()
        bounds = list(enumerate(self._bounds))[start:]
        shares = [order[begin + self._share_of(begin, end) : end : self.world_size] for _, (begin, end) in bounds]
        for (number, (begin, end)), (images, labels) in zip(bounds, self.image_set.batches(shares), strict=True):
            if self.prepare is not None:
                rank = self._share_of(begin, end)
                draws = Draws(
                    seed=self.seed,
                    epoch=self.epoch,
                    batch=number,
                    size=end - begin,
                    rank=rank,
                    world_size=self.world_size,
                )
                images = self.prepare(images, draws)
            self.position = number + 1
            yield images, labels

    def shares(self) -> list[Tensor]:
        """Indices into the set for every batch of this rank, in the order of this epoch."""
        order = self.order()
        return [order[begin + self._share_of(begin, end) : end : self.world_size] for begin, end in self._bounds]

    def order(self) -> Tensor:
        """Indices (n,) of the set in the order of this epoch, drawn from (seed, epoch) on the CPU."""
        n, device = len(self.image_set), self.image_set.labels.device
        lengths = self.image_set.lengths.cpu() if isinstance(self.image_set, TextSet) else None
        if not self.shuffle:
            return (torch.arange(n) if lengths is None else lengths.argsort(stable=True)).to(device)
        stream = generator("order", self.seed, self.epoch)
        order = torch.randperm(n, generator=stream)
        return (order if lengths is None else alike(order, lengths, self.batch_size, stream)).to(device)

    @property
    def sampler(self) -> "BatchLoader":
        """The loader itself: Lightning calls `set_epoch` of the sampler."""
        return self

    @property
    def batch_sampler(self) -> None:
        """None; Lightning reads it to determine whether an evaluation loader shuffles."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; it starts at the first batch unless it is the checkpoint's epoch."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position, and the options for which this position is valid."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the last delivered batch.

        Raises:
            DataError: the checkpoint was saved in the middle of an epoch with other batches.
        """
        self.epoch, self.position = state["epoch"], state["position"]
        self._start = self.position if self.position < len(self) else 0
        changed = [name for name, value in self._identity().items() if state.get(name, value) != value]
        if changed and self._start:
            before = ", ".join(f"{name}={state[name]}" for name in changed)
            raise DataError(
                f"the checkpoint is in mid-epoch of a run with {before}: resume it with the same data options"
            )

    def _share_of(self, begin: int, end: int) -> int:
        """The rank whose share of a batch this rank receives: its own, or rank 0's if its own is empty."""
        return self.rank if begin + self.rank < end else 0

    def _identity(self) -> dict[str, int]:
        return {"images": len(self.image_set), "batch_size": self.batch_size, "seed": self.seed}


def alike(order: Tensor, lengths: Tensor, batch_size: int, stream: torch.Generator) -> Tensor:
    """A random order (n,) rearranged so that the texts of a batch have similar lengths.

    Pools of `POOL` batches are sorted by length; then the batches are put into a random order. The texts after the last
    full batch are not sorted and stay last, so that `drop_last` drops a random selection of texts.
    """
    full = len(order) // batch_size
    body, rest = order[: full * batch_size], order[full * batch_size :]
    pools = [pool[lengths[pool].argsort(stable=True)] for pool in body.split(POOL * batch_size)]
    batches = torch.cat(pools).view(full, batch_size)
    return torch.cat([batches[torch.randperm(full, generator=stream)].flatten(), rest])


def batch_bounds(n: int, batch_size: int, world_size: int, *, drop_last: bool, join: bool) -> list[tuple[int, int]]:
    """Begin and end of every batch of n images; with `join` every batch has at least one image for each rank.

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
