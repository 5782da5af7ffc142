"""What the tests of the data share: no network, small files in every format, real data where there is some."""

import os
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("LIT_FA_DATA", os.environ.get("LIT_FA_DATA", ""))


@pytest.fixture
def real_file():
    """Path of a file in the real data root; skips where it is not."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("LIT_FA_DATA") or "data") / name
        if not path.exists():
            pytest.skip(f"needs {name} in the folder LIT_FA_DATA names")
        return path

    return find


@pytest.fixture
def write_npz(tmp_path):
    """Write a small file in MedMNIST's convention; keyword arguments replace or add arrays, None leaves one out."""

    def write(name: str = "small.npz", sizes: dict[str, int] | None = None, channels: int = 3, **changes) -> Path:
        rng = np.random.default_rng(0)
        arrays = {}
        for split, n in (sizes or {"train": 40, "val": 10, "test": 20}).items():
            arrays[f"{split}_images"] = rng.integers(0, 256, (n, 6, 6, *([3] if channels == 3 else [])), np.uint8)
            arrays[f"{split}_labels"] = (np.arange(n) % 4).astype(np.uint8)[:, None]
        arrays = {key: value for key, value in (arrays | changes).items() if value is not None}
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write
