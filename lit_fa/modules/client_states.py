"""The clients' states of a run: where their store is, on which ranks, and how it is found again by a checkpoint.

With checkpoints in a local folder the store is beside them, and a checkpoint names its generation. Otherwise the states
are in a temporary file and a checkpoint, if there is one, contains them, as all checkpoints of earlier versions do.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import distributed as dist

from lit_fa.checkpoints.client_store import ClientStore
from lit_fa.checkpoints.state_rows import Layout
from lit_fa.checkpoints.store_files import PREFIX, Entry, bad
from lit_fa.errors import UserError
from lit_fa.lightning_privates import callbacks_of
from lit_fa.operating_system import can_lock
from lit_fa.rules.base import Tensors

States = Mapping[int, Tensors]
T = TypeVar("T")


class NamedStates(Mapping[int, Tensors]):
    """The states that a loaded checkpoint names. They are opened at first use, because evaluation does not need them.

    Args:
        entry: of the checkpoint.
        checkpoint: its path, if it is known.
        device: of the tensors.
    """

    def __init__(self, entry: Entry, checkpoint: str | Path | None, device: torch.device):
        """Nothing is read yet."""
        self.entry, self.checkpoint, self.device = entry, checkpoint, device
        self._store: ClientStore | None = None

    def store(self, layout: Layout | None = None) -> ClientStore:
        """The store at its generation, to read.

        Raises:
            ClientStoreError: it cannot be used.
        """
        if self._store is None:
            self._store = ClientStore.open(found(self.entry, self.checkpoint), self.entry, layout, self.device)
        return self._store

    def __getitem__(self, client: int) -> Tensors:
        """The state of a client."""
        return self.store()[client]

    def __iter__(self) -> Iterator[int]:
        """The clients that have a state."""
        return iter(self.store())

    def __len__(self) -> int:
        """Number of clients that have a state."""
        return len(self.store())


def found(entry: Entry, checkpoint: str | Path | None) -> Path:
    """The folder of the store that a checkpoint names: beside the checkpoint or near it, or where it was written."""
    name, written = f"{PREFIX}{entry.get('id')}", Path(str(entry.get("folder")))
    if os.sep in name:
        raise bad(None, "of no store")
    beside = [] if checkpoint is None else [Path(checkpoint).absolute().parent]
    near = [
        place for folder in beside for place in (folder / name, *sorted(folder.glob(f"*/{name}")), folder.parent / name)
    ]
    return next((place for place in [*near, written] if place.is_dir()), near[0] if near else written)


def opened(states: States, layout: Layout, trainer: L.Trainer) -> tuple[ClientStore, bool]:
    """The store of a run that starts, and whether all ranks share its file. A collective call.

    Args:
        states: to start from: of the module, or of the checkpoint that the run resumes.
        layout: of a client's state.
        trainer: of the run.

    Raises:
        UserError: the store of the checkpoint cannot be used, or no store can be written.
    """
    store, error = None, None
    if trainer.is_global_zero:
        try:
            store = _of_first_rank(states, layout, _checkpoint_folder(trainer), trainer.strategy.root_device)
        except UserError as refused:
            error = refused
    if trainer.world_size == 1:
        if error is not None or store is None:
            raise error or AssertionError
        return store, True
    return _of_all_ranks(store, error, layout, trainer)


def saved_states(states: States, trainer: L.Trainer) -> dict[str, Any]:
    """Entries of a checkpoint: the states themselves, or the store that has them and its generation.

    The generation is written by rank 0, as the checkpoint is.
    """
    if not isinstance(states, ClientStore) or states.folder is None:
        return {"states": dict(states)}
    return {"states": {}, "store": states.commit() if trainer.is_global_zero else {}}


def keep(store: ClientStore, new: States, trainer: L.Trainer, *, shared: bool) -> None:
    """Store the new states of a round's clients. A collective call.

    Args:
        store: of this rank.
        new: states of the clients of this rank; if the file is not shared, of all ranks.
        trainer: of the run.
        shared: whether all ranks have the same file, of which each writes the rows of its own clients.
    """
    if trainer.world_size == 1 or not shared:
        store.update(new)
        return
    clients = sorted(client for own in _gathered(sorted(new)) for client in own)
    slots = trainer.strategy.broadcast(store.allot(clients) if trainer.is_global_zero else {})
    digests = _gathered(store.write(slots, new))  # afterwards all rows are written
    store.note(slots, {client: digest for own in digests for client, digest in own.items()})


def _of_first_rank(states: States, layout: Layout, folder: Path | None, device: torch.device) -> ClientStore:
    old = states.store(layout) if isinstance(states, NamedStates) else states
    if isinstance(old, ClientStore) and old.folder is not None and folder is not None:
        at_home = old.folder.exists() and folder.exists() and os.path.samefile(old.folder.parent, folder)
        if at_home and old.layout == layout and (old.is_locked or old.lock()):
            old.device = device
            return old
    new = ClientStore(layout, None, device) if folder is None else ClientStore.create(layout, folder, device)
    for client in old:
        new.update({client: old[client]})
    return new


def _of_all_ranks(
    first: ClientStore | None, error: UserError | None, layout: Layout, trainer: L.Trainer
) -> tuple[ClientStore, bool]:
    strategy = trainer.strategy
    told = None if first is None else (first.folder, first.index, [*first])
    told, refusal = strategy.broadcast((told, None if error is None else str(error)))
    if told is None:
        raise error or UserError(refusal)
    folder, index, clients = told
    shared = all(_gathered(folder is not None and (folder / "rows").is_file()))
    if first is None:
        first = ClientStore(layout, folder if shared else None, strategy.root_device)
        if shared:
            first.join()
            first.follow(index)
    for client in [] if shared else clients:
        state = strategy.broadcast(first[client] if trainer.is_global_zero else {})
        if not trainer.is_global_zero:
            first.update({client: state})
    return first, shared


def _checkpoint_folder(trainer: L.Trainer) -> Path | None:
    """The folder of the run's checkpoints; None if there are none, none on this machine's file system, or no locks."""
    keepers = [callback for callback in callbacks_of(trainer) if isinstance(callback, ModelCheckpoint)]
    folders = [str(keeper.dirpath) for keeper in keepers if keeper.dirpath is not None]
    if not folders or "://" in folders[0] or getattr(trainer, "fast_dev_run", False) or not can_lock():
        return None
    return Path(folders[0])


def _gathered(own: T) -> list[T]:
    """What every rank has, in the order of ranks."""
    ranks: list[T] = [own] * dist.get_world_size()
    dist.all_gather_object(ranks, own)
    return ranks
