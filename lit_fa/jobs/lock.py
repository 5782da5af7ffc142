"""A lock file that gives a run to one process; the system releases it however the process ends.

It is beside the record, so that it also works for machines that share a folder of records. A second file names the
holder.
"""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lit_fa.outputs import write_text

PATIENCE = 3.0  # seconds, for a worker that is about to exit because its parent was killed


def lock_of(record: Path) -> Path:
    """The lock file of the run of a record."""
    return record.with_name(f".{record.stem}.claim")


def checkpoints_of(record: Path) -> Path:
    """The folder of the checkpoints from which the run of a record continues; removed when the record is written."""
    return record.with_name(f".{record.stem}")


def in_the_way(record: Path) -> str:
    """An error if another kind of file has the name of a run's record, lock or checkpoints; else ""."""
    folder, lock = checkpoints_of(record), lock_of(record)
    for path in (record, lock, _holder_file(lock), folder):
        ours = not path.is_symlink() and (path.is_dir() if path == folder else path.is_file())
        if os.path.lexists(path) and not ours:
            wanted = "a folder of checkpoints" if path == folder else "a file"
            return f"{path} is in the way of {wanted} of this run: move it away"
    return ""


def clear(record: Path) -> None:
    """Remove lock and checkpoints beside a finished record, left by a process that was killed at its end.

    Checkpoints newer than the record belong to a later run and are kept.
    """
    lock, folder = lock_of(record), checkpoints_of(record)
    if not (lock.exists() or folder.is_dir()) or holder(lock):
        return
    with suppress(OSError), locked(lock) as other:
        if not other and record.is_file():
            newest = max((file.stat().st_mtime for file in folder.glob("*")), default=0.0)
            if newest <= record.stat().st_mtime:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[str]:
    """Lock the file at `path` within the context and yield ""; if another process holds the lock, yield its name.

    The file is removed at the end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE, poll_interval=0.02)
    except Timeout:
        yield _name(path)
        return
    try:
        write_text(_holder_file(path), f"process {os.getpid()} on {platform.node()}", follow=False)
        yield ""
    finally:
        _holder_file(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        lock.release()


def holder(path: Path) -> str:
    """Who has the file at `path` locked; "" if nobody has."""
    if not path.is_file():
        return ""
    try:
        with FileLock(path, blocking=False):
            return ""
    except (Timeout, PermissionError):  # without permission to lock, only the second file is known
        return _name(path)
    except OSError:
        return ""


def _holder_file(lock: Path) -> Path:
    return lock.with_suffix(".holder")


def _name(lock: Path) -> str:
    try:
        return _holder_file(lock).read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:
        return "another process"
