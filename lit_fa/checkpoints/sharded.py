"""A sharded checkpoint: a folder with one file for each rank, `00000-of-00002.shard`.

The file of rank 0 is an ordinary checkpoint in which some tensors are only its rows; the files of the other ranks have
their rows of these tensors. All files are written and read as ordinary checkpoints are: whole, with a digest, and
without executing code. `files.read` of the folder is the ordinary checkpoint, so every command that takes a checkpoint
takes the folder too, and a run on any number of ranks continues from it.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_fa.checkpoints import files
from lit_fa.errors import UserError

SHARDS = "shards"  # the entry that says which tensors are rows: names, and places in the optimisers' states
_NAME = re.compile(r"(\d{5})-of-(\d{5})\.shard")


def file_name(rank: int, ranks: int) -> str:
    """Of one rank's file.

    >>> file_name(0, 2)
    '00000-of-00002.shard'
    """
    return f"{rank:05d}-of-{ranks:05d}.shard"


def is_sharded(path: str | Path) -> bool:
    """Whether a path is the folder of a sharded checkpoint."""
    try:
        return any(_NAME.fullmatch(file.name) for file in Path(path).iterdir())
    except OSError:
        return False


def part_of(path: Path) -> Path:
    """The folder in which the ranks write, before it is renamed to `path`."""
    return path.with_name(f".{path.name}.part")


def discard(path: Path) -> None:
    """Delete a folder or a file, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish(path: Path) -> None:
    """Rename the folder that all ranks have written to `path`; what was there is deleted after it, so that a process
    that is killed has lost neither."""
    old = path.with_name(f".{path.name}.old")
    discard(old)
    if path.exists():
        path.rename(old)
    part_of(path).rename(path)
    discard(old)


def read(path: str | Path, map_location: Any = "cpu", *, weights_only: bool = True) -> dict[str, Any]:
    """The ordinary checkpoint of a sharded one.

    Args:
        path: of the folder.
        map_location: as for `torch.load`.
        weights_only: read plain data only.

    Raises:
        UnreadableError: a rank's file is missing, cannot be read, or is of another checkpoint.
    """
    names = sorted(file.name for file in Path(path).iterdir() if _NAME.fullmatch(file.name))
    ranks = int(names[0].partition("-of-")[2][:5])
    if names != [file_name(rank, ranks) for rank in range(ranks)]:
        raise files.UnreadableError(path, f"of {ranks} ranks' files only {len(names)} are there, or more than these")
    parts = [
        files.read(Path(path) / file_name(r, ranks), map_location, weights_only=weights_only) for r in range(ranks)
    ]
    if any(not isinstance(part, dict) or part.get(SHARDS) != parts[0].get(SHARDS) for part in parts):
        raise files.UnreadableError(path, "the files of its ranks are of different checkpoints")
    return _joined(parts)


def merge(folder: str | Path, path: str | Path) -> None:
    """Write the ordinary checkpoint of a sharded one to a file.

    Raises:
        UserError: the folder is no sharded checkpoint or cannot be read, or the file cannot be written.
    """
    if not is_sharded(folder):
        raise UserError(f"{folder} is no sharded checkpoint: give the folder that a run with strategy fsdp2 has saved")
    files.save(read(folder), path)


def rows_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """An empty entry `SHARDS` for a checkpoint with as many optimisers."""
    return {"state_dict": [], "optimizer_states": [[] for _ in content.get("optimizer_states", [])]}


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The checkpoint of rank 0 with the rows of all ranks."""
    content = parts[0]
    rows = content.pop(SHARDS)
    for name in rows["state_dict"]:
        content["state_dict"][name] = _rows([part["state_dict"][name] for part in parts])
    for number, places in enumerate(rows["optimizer_states"]):
        states = [part["optimizer_states"][number]["state"] for part in parts]
        for index, key in places:
            states[0][index][key] = _rows([state[index][key] for state in states])
    return content


def _rows(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts)
