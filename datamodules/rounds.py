"""The data of one federated round: its clients and their batches. Iteration can be resumed at any round.

All draws depend only on (seed, round, client id): not on the other sampled clients, nor on the process that computes a
client.

Legend: k clients of a round, N images of the whole training set, b rows of a local batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_fa.datamodules.errors import DataError, require
from lit_fa.datamodules.generators import Draws, first_permuted, generator
from lit_fa.datamodules.image_set import Batch, InMemory
from lit_fa.datamodules.pieces import Pieces, pieces_of

Prepare = Callable[[Tensor, Draws], Tensor]


@dataclass
class Round:
    """One batch of a `RoundLoader`. Not frozen: Lightning's precision plugins cannot convert frozen dataclasses.

    Attributes:
        number: index of the round, from 0.
        clients: ids of the sampled clients, ascending.
        population: number of all clients.
        sizes: number of images of each sampled client.
        places: (k, steps, b) indices into the images; a short step repeats its first index.
        rows: (k, steps) on the CPU: number of images of each step, 0 after a client's last step.
        images, labels: (N, ...) and (N,), the whole training set; shared, never copied.
        prepare: maps stored images to inputs; None if images are stored as inputs.
        seed: of augmentation.
        dtype: of inputs; None: as stored or prepared.
    """

    number: int
    clients: tuple[int, ...]
    population: int
    sizes: tuple[int, ...]
    places: Tensor
    rows: Tensor
    images: Tensor
    labels: Tensor
    prepare: Prepare | None = None
    seed: int = 0
    dtype: torch.dtype | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """Number of local steps of each client."""
        return tuple((self.rows > 0).sum(1).tolist())

    def take(self, indices: Sequence[int]) -> Self:
        """The round with only the clients at these positions, in this order."""
        chosen = torch.tensor(indices, dtype=torch.int64)
        rows = self.rows[chosen]
        longest = int((rows > 0).sum(1).max())
        return replace(
            self,
            clients=tuple(self.clients[index] for index in indices),
            sizes=tuple(self.sizes[index] for index in indices),
            places=self.places[chosen.to(self.places.device), :longest],
            rows=rows[:, :longest],
        )

    def batch(self, index: int, step: int) -> Batch:
        """Inputs (b, ...) and labels (b,) of one step of the client at position `index`."""
        places = self.places[index, step, : int(self.rows[index, step])]
        images = self.images.index_select(0, places)
        return self._prepared(images, index, step), self.labels.index_select(0, places)

    def stacked(self, active: int, step: int) -> Batch:
        """Inputs (active, b, ...) and labels (active, b) of the first `active` clients.

        A step with fewer images than the longest repeats its first image.
        """
        longest = int(self.rows[:active, step].max())
        places = self.places[:active, step, :longest]
        labels = self.labels.index_select(0, places.reshape(-1)).view(active, longest)
        if self.prepare is None:
            images = self._cast(self.images.index_select(0, places.reshape(-1)))
            return images.view(active, longest, *images.shape[1:]), labels
        return torch.stack([_filled(self.batch(index, step)[0], longest) for index in range(active)]), labels

    def to(self, device: torch.device, **options: Any) -> Self:
        """The same round with its tensors on `device`; tensors that are there already are not copied."""
        moved = {name: getattr(self, name).to(device, **options) for name in ("places", "images", "labels")}
        return replace(self, **moved)

    def _prepared(self, images: Tensor, index: int, step: int) -> Tensor:
        if self.prepare is None:
            return self._cast(images)
        seed = generator("local draws", self.seed, self.number, self.clients[index]).initial_seed()
        return self._cast(self.prepare(images, Draws(seed, self.number, step, len(images))))

    def _cast(self, inputs: Tensor) -> Tensor:
        return inputs.to(self.dtype) if self.dtype is not None and inputs.is_floating_point() else inputs


def _filled(images: Tensor, rows: int) -> Tensor:
    """Images (b, ...) with the first one repeated until there are `rows` images."""
    return torch.cat([images, images[:1].expand(rows - len(images), *images.shape[1:])])


@dataclass(frozen=True)
class LocalWork:
    """The local work of a client in a round: `steps` steps, or `epochs` passes over its images.

    Args:
        batch_size: images per step; None: all images of the client.
        epochs: passes, if `steps` is None.
        steps: number of steps, in place of `epochs`.
        drop_last: omit the last batch of a pass if it is not full.
    """

    batch_size: int | None = 50
    epochs: int = 5
    steps: int | None = None
    drop_last: bool = False

    def batches(self, size: int) -> list[int]:
        """Number of images of each step, for a client with `size` images.

        >>> LocalWork(batch_size=4, epochs=2).batches(6), LocalWork(batch_size=4, steps=3).batches(6)
        ([4, 2, 4, 2], [4, 2, 4])
        """
        one = self.one_pass(size)
        return one * self.epochs if self.steps is None else (one * -(-self.steps // len(one)))[: self.steps]

    def one_pass(self, size: int) -> list[int]:
        """Number of images of each step of one pass; a client smaller than a batch takes one step on all its images."""
        b = min(self.batch_size or size, size)
        rest = size % b
        return [b] * (size // b) + ([rest] if rest and not self.drop_last else [])

    def order(self, part: Tensor, number: int, client: int, seed: int) -> Tensor:
        """Indices of the images in the order in which the client sees them; every pass has its own order."""
        seen, in_a_pass = sum(self.batches(len(part))), sum(self.one_pass(len(part)))
        orders = [
            torch.randperm(len(part), generator=generator("local order", seed, number, client, epoch))[:in_a_pass]
            for epoch in range(-(-seen // in_a_pass))
        ]
        return part[torch.cat(orders)[:seen]]


class RoundLoader:
    """Iterable of rounds; one epoch is `rounds_per_epoch` rounds. A stopped run resumes with the next round.

    Args:
        images: the training set, in memory.
        parts: indices of each client's images.
        clients_per_round: number of clients sampled without replacement.
        work: local work of a client in a round.
        rounds_per_epoch: rounds per epoch.
        prepare: see `Round`.
        seed: of client sampling, batch orders and augmentation.
    """

    batch_sampler = None

    def __init__(
        self,
        images: InMemory,
        parts: Sequence[Tensor],
        clients_per_round: int,
        work: LocalWork,
        *,
        rounds_per_epoch: int = 1,
        prepare: Prepare | None = None,
        seed: int = 0,
    ) -> None:
        self.images, self.work = images, work
        self.parts: Sequence[Tensor] = pieces_of(parts)
        self.clients_per_round, self.rounds_per_epoch = clients_per_round, rounds_per_epoch
        self.prepare, self.seed = prepare, seed
        self.epoch = 0
        self.position = 0  # rounds delivered in this epoch
        self._start = 0

    def __len__(self) -> int:
        """Rounds per epoch."""
        return self.rounds_per_epoch

    def smallest(self, rounds: int | None = None) -> int:
        """Number of images in the smallest local step of the first `rounds` rounds (None: of any client)."""
        sizes = pieces_of(self.parts).sizes
        if rounds is not None:
            sizes = sizes[[client for number in range(rounds) for client in self.cohort(number)]]
        return min((min(self.work.batches(int(size))) for size in np.unique(sizes)), default=0)

    def __iter__(self) -> Iterator[Round]:
        """The rounds of one epoch."""
        start, self._start = self._start, 0
        for position in range(start, self.rounds_per_epoch):
            self.position = position + 1
            yield self.round(self.epoch * self.rounds_per_epoch + position)

    def cohort(self, number: int) -> list[int]:
        """Ids of the clients of round `number`, ascending."""
        drawn = generator("cohort", self.seed, number)
        return sorted(first_permuted(len(self.parts), self.clients_per_round, drawn))

    def round(self, number: int) -> Round:
        """Round `number`; it does not depend on earlier draws."""
        return self.round_of(number, self.cohort(number))

    def whole(self, number: int) -> Round:
        """Round `number` with all clients and one pass over the images of each."""
        return self.round_of(number, range(len(self.parts)), replace(self.work, epochs=1, steps=None))

    def round_of(self, number: int, clients: Sequence[int], work: LocalWork | None = None) -> Round:
        """Round `number` with the given clients; `work` replaces the usual local work."""
        work = work or self.work
        batches = [work.batches(len(self.parts[client])) for client in clients]
        rows = torch.zeros(len(clients), max(map(len, batches)), dtype=torch.int64)
        places = torch.zeros(*rows.shape, max(map(max, batches)), dtype=torch.int64)
        for index, client in enumerate(clients):
            rows[index, : len(batches[index])] = torch.tensor(batches[index])
            self._place(places[index], rows[index], work.order(self.parts[client], number, client, self.seed))
        images, labels = self.images.images, self.images.labels
        return Round(
            number=number,
            clients=tuple(clients),
            population=len(self.parts),
            sizes=tuple(len(self.parts[client]) for client in clients),
            places=places.to(labels.device),
            rows=rows,
            images=images,
            labels=labels,
            prepare=self.prepare,
            seed=self.seed,
        )

    @property
    def sampler(self) -> Self:
        """The loader itself: Lightning calls `set_epoch` of the sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; it starts at the first round unless it is the checkpoint's epoch."""
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position, and the options that determine the rounds."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the last delivered round.

        Raises:
            DataError: the checkpoint was made with other federated data.
        """
        changed = [name for name, value in self._identity().items() if state.get(name, value) != value]
        if changed:
            before = ", ".join(f"{name}={state[name]}" for name in changed)
            raise DataError(f"the checkpoint is of a federation with {before}: resume it with the same data options")
        self.epoch, self.position = state["epoch"], state["position"]
        self._start = self.position if self.position < len(self) else 0

    def _identity(self) -> dict[str, Any]:
        names = ("clients_per_round", "rounds_per_epoch", "seed")
        return {"clients": len(self.parts), "images": len(self.images)} | {n: getattr(self, n) for n in names}

    def _place(self, places: Tensor, rows: Tensor, order: Tensor) -> None:
        """Write a client's order into `places` (steps, b); a short step repeats its first index."""
        steps = int((rows > 0).sum())
        starts = rows[:steps].cumsum(0) - rows[:steps]
        within = torch.arange(places.shape[1])
        within = torch.where(within < rows[:steps, None], within, 0)
        places[:steps] = order[starts[:, None] + within]


def checked_parts(parts: Sequence[Sequence[int] | NDArray[Any]], images: int) -> Pieces[Tensor]:
    """The index lists of the clients as views of one tensor.

    Raises:
        DataError: an empty client, an index out of range, or an index that occurs twice.
    """
    pieces = pieces_of(parts)
    empty = (pieces.sizes == 0).argmax() if len(pieces) else 0
    require(bool(pieces.sizes.all()), f"client {empty} has no image; leave it out of the partition or give it some")
    whole = pieces.whole
    low, high = int(whole.min()), int(whole.max())
    require(low >= 0 and high < images, f"the partition has indices {low} to {high}; there are {images} images")
    once = int(torch.bincount(whole, minlength=images).max()) <= 1
    require(once, "the partition gives an image to two clients; give each one once")
    return pieces
