"""One process for one run: a claim is a locked file, which the system unlocks however its process ends."""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

PATIENCE = 0.2  # seconds; whoever only looks holds the lock for a moment


@contextmanager
def claimed(path: Path) -> Iterator[str]:
    """Holds the claim at `path` inside the context, and yields ""; where another process holds it, yields who that is.

    `filelock` would empty the file, which says who holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not _locked(file, fcntl.LOCK_EX):
            yield _read(file)
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield ""


def claimant(path: Path) -> str:
    """Who holds the claim at `path`; "" where nobody does."""
    try:
        with path.open(encoding="utf-8") as file:
            return "" if _locked(file, fcntl.LOCK_SH, patience=0.0) else _read(file)
    except OSError:
        return ""


def _locked(file: TextIO, kind: int, patience: float = PATIENCE) -> bool:
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        else:
            return True


def _read(file: TextIO) -> str:
    file.seek(0)
    return file.read() or "another process"
