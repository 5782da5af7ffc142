"""What can be wrong with a checkpoint, made from a whole one; all of it is harmless."""

import os
from collections.abc import Callable
from pathlib import Path

import torch


class RunsOnLoading:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def malicious(path: Path, proof: Path) -> None:
    """A checkpoint that creates the folder `proof` when a reader runs what is in it."""
    content = {"state_dict": {}, "pytorch-lightning_version": "2.6.0", "callbacks": RunsOnLoading(proof)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BROKEN: dict[str, Callable[[Path], None]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "flipped": _flipped,
    "text": lambda path: path.write_text("hello", encoding="utf-8"),
    "another": lambda path: torch.save({"a": 1}, path),
}
