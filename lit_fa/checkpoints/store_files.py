"""The small files of a client store: what it is, its generations, and the checkpoints that need them.

Legend: a generation has for each client its row (-1: none) and the digest (16 bytes) of that row.
"""

import io
import json
import os
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_fa.checkpoints.state_rows import Layout
from lit_fa.errors import UserError
from lit_fa.operating_system import lock
from lit_fa.outputs import write_text, written

Entry = Mapping[str, Any]  # what a checkpoint holds of a store: id, generation, digest, folder
Index = tuple[NDArray[np.int64], NDArray[np.uint8]]  # rows (clients,) and digests (clients, 16)
PREFIX, FORMAT, DIGEST = "clients-", 1, 16
_PINS = threading.Lock()  # checkpoints may be written by another thread than the one that trains


class ClientStoreError(UserError):
    """A store that is missing, damaged, or of another run."""


def bad(folder: Path | None, reason: str) -> ClientStoreError:
    """The error of a store that cannot be used."""
    remedy = "restore the folder, or give another checkpoint"
    return ClientStoreError(f"the states of the clients, {folder}: {reason}; {remedy}")


def digest_of(data: bytes | bytearray | memoryview) -> bytes:
    """16 bytes that change with any byte of `data`."""
    return blake2b(data, digest_size=DIGEST).digest()


def describe(folder: Path, id: str, layout: Layout) -> None:
    """Write what a store is."""
    write_text(folder / "store.json", json.dumps({"format": FORMAT, "id": id, "layout": layout.described()}))


def described(folder: Path, id: str) -> Layout:
    """The layout of the store `id`.

    Raises:
        ClientStoreError: there is no such store in the folder.
    """
    try:
        content = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        layout = Layout.read(content["layout"]) if content["format"] == FORMAT else None
        found = content["id"]
    except OSError:
        raise bad(folder, "missing") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise bad(folder, "damaged (store.json)") from None
    if found != id:
        raise bad(folder, "of another run")
    if layout is None:
        raise bad(folder, f"of format {content['format']}, which this version does not read")
    return layout


def generations(folder: Path) -> list[int]:
    """Numbers of the generations of a store, ascending."""
    names = (path.name.removeprefix("generation-") for path in sorted(folder.glob("generation-*")))
    return sorted(int(name) for name in names if name.isdigit())


def write_generation(folder: Path, number: int, index: Index) -> None:
    """Write a generation."""
    with written(folder / f"generation-{number}") as part:
        part.write_bytes(_bytes(index))


def index_digest(index: Index) -> str:
    """The digest of a generation; as it has the digests of rows, it depends on every byte of every state."""
    return digest_of(_bytes(index)).hex()


def read_generation(folder: Path, number: int, digest: str | None = None) -> Index:
    """A generation, with a check of its digest if that is given.

    Raises:
        ClientStoreError: it is missing or damaged.
    """
    try:
        data = (folder / f"generation-{number}").read_bytes()
    except OSError:
        raise bad(folder, f"has no generation {number} (any more)") from None
    if digest is not None and digest_of(data).hex() != digest:
        raise bad(folder, f"damaged (generation {number} is not the one of this checkpoint)")
    try:
        file = io.BytesIO(data)
        return np.load(file, allow_pickle=False), np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise bad(folder, f"damaged (generation {number})") from None


def remove_generation(folder: Path, number: int) -> None:
    """Remove a generation that no checkpoint needs."""
    (folder / f"generation-{number}").unlink(missing_ok=True)


def pin(entry: object, path: str | Path) -> None:
    """Record that the checkpoint at `path` needs the generation of `entry`, and not what an older file there needed."""
    if isinstance(entry, Mapping) and (folder := Path(str(entry.get("folder")))).is_dir():
        _change_pins(folder, path, int(entry["generation"]))


def unpin(path: str | Path) -> None:
    """Record, before a trainer deletes the checkpoint at `path`, that it needs no generation any more."""
    for folder in sorted(Path(path).absolute().parent.glob(f"{PREFIX}*")):
        if folder.is_dir():
            _change_pins(folder, path, None)


def unneeded(folder: Path, kept: int) -> list[int]:
    """Generations whose checkpoints have all been deleted or overwritten by the trainer, without `kept`."""
    with _PINS:
        pins = _pins(folder)
        gone = [number for number in pins["unneeded"] if number != kept]
        if pins["unneeded"]:
            _write_pins(folder, {**pins, "unneeded": []})
    return gone


def remove_unused(beside: Path) -> None:
    """Remove stores without a generation, of runs that were killed before their first checkpoint."""
    for folder in sorted(beside.glob(f"{PREFIX}*")):
        if not generations(folder) and not _in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path) -> bool:
    with suppress(FileNotFoundError), (folder / "rows").open("rb") as file:
        try:
            lock(file, wait=False)
        except OSError:
            return True
    return False


def _change_pins(folder: Path, path: str | Path, number: int | None) -> None:
    name = os.path.relpath(os.path.abspath(path), os.path.abspath(folder))  # so that a run's folder can be moved
    with _PINS:
        pins = _pins(folder)
        old = pins["needs"].pop(name, None)
        if number is not None:
            pins["needs"][name] = number
        free = {*pins["unneeded"], *([] if old is None else [old])} - {*pins["needs"].values()}
        _write_pins(folder, {"needs": pins["needs"], "unneeded": sorted(free)})


def _pins(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return {"needs": {}, "unneeded": []} | json.loads((folder / "pins.json").read_text(encoding="utf-8"))
    return {"needs": {}, "unneeded": []}


def _write_pins(folder: Path, pins: dict[str, Any]) -> None:
    write_text(folder / "pins.json", json.dumps(pins))


def _bytes(index: Index) -> bytes:
    file = io.BytesIO()
    for part in index:
        np.save(file, part, allow_pickle=False)
    return file.getvalue()
