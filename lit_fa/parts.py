"""A part: a file that is written beside its target and renamed to it once it is whole.

A process that is killed while it writes leaves its part behind; the next one that writes the same target removes it.
Who still writes holds a lock on the part, so two processes do not disturb each other.
"""

import fcntl
import glob
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def part_of(target: Path, ending: str, *, device: bool = False) -> Iterator[Path]:
    """A new empty file in the target's folder, which is made, with the target's mode, else that of a new file.

    Args:
        target: of the rename.
        ending: of the part's name.
        device: the target is no file on a disk; the part is a temporary file.

    Raises:
        OSError: as the system says; the part is gone at the end of the block, whatever happens in it.
    """
    folder = Path(tempfile.gettempdir()) if device else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    begin = f".{target.name[:40]}."
    _remove_abandoned(folder, begin, ending)
    part, descriptor = _locked(folder, begin, ending, 0o600 if device else 0o666)
    try:
        with suppress(OSError):  # of a new file, or of a file system without modes
            if not device and not target.is_symlink():
                os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
        yield part
    finally:
        os.close(descriptor)
        with suppress(OSError):
            part.unlink()


def publish(part: Path, target: Path, *, device: bool = False) -> None:
    """Put a part on the disk and in the place of its target.

    Raises:
        OSError: as the system says; the target is as it was.
    """
    if device:
        with part.open("rb") as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        return
    _sync(part)
    os.replace(part, target)
    with suppress(OSError):  # a file system whose folders cannot be put on the disk
        _sync(target.parent)


def _locked(folder: Path, begin: str, ending: str, mode: int) -> tuple[Path, int]:
    """A new part and its descriptor, which holds the lock."""
    while True:
        part = folder / f"{begin}{secrets.token_hex(4)}{ending}"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if part.exists():  # else another process took it for abandoned before it was locked
            return part, descriptor
        os.close(descriptor)


def _remove_abandoned(folder: Path, begin: str, ending: str) -> None:
    """Remove what a process that was killed while it wrote has left."""
    for part in sorted(folder.glob(f"{glob.escape(begin)}*{glob.escape(ending)}")):
        with suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # who still writes it holds the lock
            part.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
