"""Leases: locks on files that expire, which work on network file systems as well."""

import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import SoftFileLease

LEASE_S = 60.0  # seconds without renewal after which a process on another machine counts as dead
NAMELESS_S = 5.0  # seconds for which a lock file may be empty: its process writes its name at once


class Lease(SoftFileLease):
    """A lease that also ends where its process was killed before it had written its name into the file.

    An empty file names nobody, so filelock would wait for it for ever.
    """

    _nameless: tuple[int, float] | None = None  # inode of an empty file, and when it was first seen

    def acquire(self, *args: Any, **options: Any) -> Any:
        """As filelock's; a blocking call first waits until an empty file has a name or is removed."""
        while self._is_nameless() and options.get("blocking", True):
            time.sleep(0.05)
        return super().acquire(*args, **options)

    def _is_nameless(self) -> bool:
        """Whether the file is empty; one that has been seen so for `NAMELESS_S` is removed."""
        inode = _empty_inode(self.lock_file)
        if inode is None:
            self._nameless = None
            return False
        if self._nameless is None or self._nameless[0] != inode:
            self._nameless = inode, time.monotonic()
        if time.monotonic() - self._nameless[1] < NAMELESS_S:
            return True
        _remove(Path(self.lock_file), inode)
        return False


def _empty_inode(path: str) -> int | None:
    """The inode of an empty file; None if the file is not empty, or not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino if stat.S_ISREG(status.st_mode) and status.st_size == 0 else None


def _remove(path: Path, inode: int) -> None:
    """Remove an empty file, unless another process has just replaced it."""
    aside = path.with_name(f"{path.name}.{uuid4().hex}")
    if _empty_inode(str(path)) != inode:
        return
    with suppress(OSError):
        path.rename(aside)
        if _empty_inode(str(aside)) != inode:  # the lease of a process that came between the two lines
            os.link(aside, path)
        aside.unlink()


def lease_at(path: Path) -> Lease:
    """A lock that its process renews; it expires `LEASE_S` after the process has ended."""
    return Lease(path, lease_duration=LEASE_S)
