"""Parts: temporary files that are written next to their target and renamed to it when they are complete.

A process that is killed while it writes leaves its part behind; the next process that writes the same target deletes
it. A process locks its part while it writes, so no other process deletes it. Windows has no such locks, and renames no
file that is open: there a part is closed before it is written, and deleted by others after a day.
"""

import glob
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lit_fa.operating_system import can_lock, flags, lock

_ABANDONED = 86_400.0  # seconds after which a part is taken to be abandoned, where files cannot be locked


@contextmanager
def part_of(target: Path, ending: str, *, device: bool = False) -> Iterator[Path]:
    """Yield a new empty file in the target's folder, with the mode of the target or, without one, of a new file.

    The folder is created if necessary. The part is deleted at the end of the block.

    Args:
        target: of the rename.
        ending: of the part's name.
        device: the target is not a file on a disk; then the part is in the folder of temporary files.

    Raises:
        OSError: from the file system.
    """
    folder = Path(tempfile.gettempdir()) if device else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    begin = f".{target.name[:40]}."
    _remove_abandoned(folder, begin, ending)
    part, descriptor = _locked(folder, begin, ending, 0o600 if device else 0o666)
    try:
        with suppress(OSError):  # of a new file, or of a file system without modes
            if not device and not target.is_symlink():
                os.chmod(part, stat.S_IMODE(target.stat().st_mode))
        if not can_lock():
            os.close(descriptor)
        yield part
    finally:
        if can_lock():
            os.close(descriptor)
        with suppress(OSError):
            part.unlink()


def publish(part: Path, target: Path, *, device: bool = False) -> None:
    """Synchronise a part to disk and rename it to its target.

    Raises:
        OSError: from the file system; the target is unchanged.
    """
    if device:
        with part.open("rb") as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        return
    _sync(part)
    os.replace(part, target)
    with suppress(OSError):  # some file systems cannot synchronise folders
        _sync(target.parent)


def _locked(folder: Path, begin: str, ending: str, mode: int) -> tuple[Path, int]:
    """A new part and its locked descriptor."""
    while True:
        part = folder / f"{begin}{secrets.token_hex(4)}{ending}"
        descriptor = os.open(part, flags("O_WRONLY", "O_CREAT", "O_EXCL"), mode)
        with suppress(OSError):  # a file system without locks
            if can_lock():
                lock(descriptor, wait=True)
        if part.exists():  # otherwise another process has deleted it before it was locked
            return part, descriptor
        os.close(descriptor)


def _remove_abandoned(folder: Path, begin: str, ending: str) -> None:
    """Delete the parts of processes that were killed while they wrote."""
    for part in sorted(folder.glob(f"{glob.escape(begin)}*{glob.escape(ending)}")):
        with suppress(OSError):
            if not can_lock():
                if time.time() - part.stat().st_mtime > _ABANDONED:
                    part.unlink()
                continue
            with part.open("rb") as file:
                lock(file, wait=False)  # fails if a process still writes the part
                part.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, flags("O_RDWR" if os.name == "nt" else "O_RDONLY"))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
