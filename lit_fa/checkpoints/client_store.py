"""The states of all clients in one file, one row a client, with generations that are copied on write.

SCAFFOLD, FedDyn and Moon keep tensors of the size of the network for every client ever sampled. Here they are on disk:
a round reads and writes only the rows of its own clients, so memory does not grow with the clients ever seen.

The folder of a store has `store.json` (its id and the layout of a row), `rows` (in any order), `generation-<n>` (for
each client its row, and the digest of that row) and `pins.json` (which checkpoint needs which generation). A row of a
generation is never overwritten: the new state of a client goes to a free row. So a process that is killed in the middle
of a round leaves every generation as it was. Rows become free when the trainer has deleted or overwritten the
checkpoints that need them.

Rows are read and written by offset, not through a memory map: mapped pages count as resident memory, and under a map a
truncated file or a full disk ends the process by SIGBUS, without a message.
"""

import io
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from lit_fa.checkpoints import store_files as files
from lit_fa.checkpoints.state_rows import Layout, Tensors
from lit_fa.errors import UserError
from lit_fa.operating_system import lock
from lit_fa.outputs import cannot_write


class ClientStore(Mapping[int, Tensors]):
    """A mapping from a client's id to its state. Copies and pickles of it are plain dictionaries in memory.

    Args:
        layout: names, shapes and dtypes of a client's tensors.
        folder: of the store, see `create` and `open`; None: one unnamed file in the folder of temporary files, which
            the system removes when the process ends.
        device: of the tensors that are read.

    >>> store = ClientStore(Layout.of({"w": torch.zeros(2)}))
    >>> store.update({7: {"w": torch.ones(2)}})
    >>> [*store], store[7]["w"].tolist()
    ([7], [1.0, 1.0])
    """

    def __init__(self, layout: Layout, folder: Path | None = None, device: torch.device | str = "cpu"):
        """An empty store."""
        self.layout, self.folder, self.device = layout, folder, torch.device(device)
        self.id, self.generation = "", -1  # -1: the present states are no generation
        self.is_locked = False
        self._file: Any = None
        if folder is None:
            self._file = tempfile.TemporaryFile(prefix="lit-fa-", buffering=0)  # noqa: SIM115  # as long as the store
        self._slots, self._digests = np.full(0, -1, np.int64), np.zeros((0, files.DIGEST), np.uint8)
        self._used, self._needed = np.zeros(0, bool), np.zeros(0, np.int32)  # per row: by a client; generations
        self._free: list[int] = []

    @classmethod
    def create(cls, layout: Layout, beside: Path, device: torch.device | str = "cpu") -> Self:
        """An empty store in a new folder in `beside`, locked for this process.

        Raises:
            UserError: it cannot be written.
        """
        files.remove_unused(beside)
        id = secrets.token_hex(4)
        store = cls(layout, beside / f"{files.PREFIX}{id}", device)
        store.id = id
        files.describe(beside / f"{files.PREFIX}{id}", id, layout)
        store._reopen("w+b")
        store.lock()
        return store

    @classmethod
    def open(
        cls, folder: Path, entry: files.Entry, layout: Layout | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """The generation that a checkpoint names, to read.

        Args:
            folder: of the store.
            entry: of the checkpoint.
            layout: that is expected; None: any.
            device: of the tensors that are read.

        Raises:
            ClientStoreError: it is missing, incomplete, damaged, or of another run.
        """
        found = files.described(folder, str(entry.get("id")))
        if layout is not None and layout != found:
            raise files.bad(folder, "of another network or another algorithm")
        store = cls(found, folder, device)
        store.id, store.generation = str(entry["id"]), entry.get("generation", -1)
        index = files.read_generation(folder, store.generation, str(entry.get("digest")))
        store._reopen("rb")
        if index[0].max(initial=-1) >= store._rows():
            raise files.bad(folder, "truncated (rows are missing)")
        store.follow(index)
        return store

    def lock(self) -> bool:
        """Become the one process that allots rows; False if another one is."""
        assert self.folder is not None
        self._reopen("r+b")
        try:
            lock(self._file, wait=False)
        except OSError:
            self._reopen("rb")
            return False
        self.is_locked, self._needed = True, np.zeros(0, np.int32)
        for number in files.generations(self.folder):
            self._count(number, 1)
        self._find_free()
        return True

    def join(self) -> None:
        """Write to rows that another process, which has the lock, allots."""
        self._reopen("r+b")

    def release(self) -> None:
        """Give up the lock at the end of a run; the states can still be read."""
        if self.folder is not None and self.is_locked:
            self._reopen("rb")
            self.is_locked = False

    def close(self) -> None:
        """Close the file and release the lock."""
        if self._file is not None:
            self._file.close()

    def __getitem__(self, client: int) -> Tensors:
        """The state of a client.

        Raises:
            KeyError: it has none.
            ClientStoreError: its row is damaged.
        """
        if client not in self:
            raise KeyError(client)
        row = bytearray(self.layout.nbytes)
        read = os.preadv(self._file.fileno(), [row], int(self._slots[client]) * len(row))
        if read != len(row) or files.digest_of(row) != self._digests[client].tobytes():
            raise files.bad(self.folder, f"damaged (the state of client {client})")
        return {name: tensor.to(self.device) for name, tensor in self.layout.unpack(row).items()}

    def __contains__(self, client: object) -> bool:
        """Whether a client has a state."""
        return isinstance(client, int) and 0 <= client < len(self._slots) and bool(self._slots[client] >= 0)

    def __iter__(self) -> Iterator[int]:
        """The clients that have a state, ascending."""
        return iter(np.flatnonzero(self._slots >= 0).tolist())

    def __len__(self) -> int:
        """Number of clients that have a state."""
        return int((self._slots >= 0).sum())

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """A dictionary in memory."""
        return dict, (dict(self),)

    def update(self, states: Mapping[int, Tensors]) -> None:
        """Write the states of clients.

        Raises:
            UserError: the file cannot be written.
        """
        slots = self.allot(sorted(states))
        self.note(slots, self.write(slots, states))

    def allot(self, clients: Sequence[int]) -> dict[int, int]:
        """Client to the row for its new state; rows of generations stay as they are."""
        slots = {}
        for client in clients:
            old = int(self._slots[client]) if client in self else -1
            if old >= 0 and (old >= len(self._needed) or not self._needed[old]):
                slots[client] = old
            else:
                slots[client] = self._free.pop() if self._free else max(len(self._used), len(self._needed))
                self._use(slots[client])
        return slots

    def write(self, slots: Mapping[int, int], states: Mapping[int, Tensors]) -> dict[int, bytes]:
        """Write states to their rows; client to digest.

        Raises:
            UserError: the file cannot be written, for example because the disk is full.
        """
        digests = {}
        try:
            for client, state in states.items():
                row, done = self.layout.pack(state), 0
                while done < len(row):
                    done += os.pwrite(self._file.fileno(), row[done:], slots[client] * len(row) + done)
                digests[client] = files.digest_of(row)
        except OSError as error:
            raise UserError(cannot_write(self._path(), error)) from error
        return digests

    def note(self, slots: Mapping[int, int], digests: Mapping[int, bytes]) -> None:
        """Record the rows of clients, after they were written."""
        for client, slot in slots.items():
            self._reach(client)
            if (old := int(self._slots[client])) not in (-1, slot):
                self._used[old] = False
            self._use(slot)
            self._slots[client] = slot
            self._digests[client] = np.frombuffer(digests[client], np.uint8)
            self.generation = -1

    @property
    def index(self) -> files.Index:
        """Rows and digests, for `follow`."""
        return self._slots, self._digests

    def follow(self, index: files.Index) -> None:
        """Take over rows and digests of a generation, or of the process that has the lock."""
        self._slots, self._digests = index[0].copy(), index[1].copy()
        self._used = np.zeros(int(self._slots.max(initial=-1)) + 1, bool)
        self._used[self._slots[self._slots >= 0]] = True

    def commit(self) -> dict[str, Any]:
        """Make the present states a generation; returns the entry for a checkpoint.

        Generations whose checkpoints the trainer has deleted are removed, and their rows become free.

        Raises:
            UserError: it cannot be written.
        """
        folder = self.folder
        assert folder is not None
        if not self.is_locked and not self.lock():
            raise UserError(f"{folder}: another process is using these states; save the checkpoint when it has ended")
        known = files.generations(folder)
        if self.generation not in known:
            self._synchronise()
            self.generation = max(known, default=-1) + 1
            files.write_generation(folder, self.generation, self.index)
            self._count(self.generation, 1)
        for number in files.unneeded(folder, kept=self.generation):
            self._count(number, -1)
            files.remove_generation(folder, number)
        self._find_free()
        entry = {"id": self.id, "generation": self.generation, "digest": files.index_digest(self.index)}
        return {**entry, "folder": str(folder.absolute())}

    def _reopen(self, mode: str) -> None:
        self.close()
        try:
            self._file = io.FileIO(self._path(), mode)
        except FileNotFoundError:
            raise files.bad(self.folder, "incomplete (no file of rows)") from None
        except OSError as error:
            raise UserError(cannot_write(self._path(), error)) from error

    def _synchronise(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(cannot_write(self._path(), error)) from error

    def _path(self) -> Path:
        return Path(tempfile.gettempdir()) if self.folder is None else self.folder / "rows"

    def _rows(self) -> int:
        return os.fstat(self._file.fileno()).st_size // max(self.layout.nbytes, 1)

    def _use(self, slot: int) -> None:
        if slot >= len(self._used):
            self._used = np.concatenate([self._used, np.zeros(slot + 1 - len(self._used), bool)])
        self._used[slot] = True

    def _reach(self, client: int) -> None:
        """Let the index have a place for a client."""
        if client >= len(self._slots):
            more = max(client + 1, 2 * len(self._slots)) - len(self._slots)
            self._slots = np.concatenate([self._slots, np.full(more, -1, np.int64)])
            self._digests = np.concatenate([self._digests, np.zeros((more, files.DIGEST), np.uint8)])

    def _count(self, number: int, change: int) -> None:
        """Count a generation among those that need its rows, or no longer."""
        assert self.folder is not None
        try:
            slots, _ = files.read_generation(self.folder, number)
        except files.ClientStoreError:  # its own checkpoint is refused
            return
        rows = slots[slots >= 0]
        if (more := int(rows.max(initial=-1)) + 1 - len(self._needed)) > 0:
            self._needed = np.concatenate([self._needed, np.zeros(more, np.int32)])
        self._needed[rows] += change

    def _find_free(self) -> None:
        """The rows that neither a client nor a generation has."""
        size = max(len(self._used), len(self._needed))
        free = np.ones(size, bool)
        free[: len(self._used)] &= ~self._used
        free[: len(self._needed)] &= self._needed == 0
        self._free = np.flatnonzero(free)[::-1].tolist()
