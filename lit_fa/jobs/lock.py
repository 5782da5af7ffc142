"""One process for one run: a claim is a locked file, which the system unlocks however its process ends.

It lies beside the record, so that machines which share a folder of records agree too.
"""

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK  # the folder may be another's: a link would have its target emptied
_OPENING = os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_LINK
PATIENCE = 3.0  # seconds, for a worker that is just leaving because its parent was killed


def claim_of(record: Path) -> Path:
    """The file by which processes agree who trains the run of a record."""
    return record.with_name(f".{record.stem}.claim")


def checkpoints_of(record: Path) -> Path:
    """The folder of the checkpoints from which the run of a record goes on; it goes when the record is there."""
    return record.with_name(f".{record.stem}")


def in_the_way(record: Path) -> str:
    """The line for what is at the place of a record, its claim or its checkpoints and is none of ours; else ""."""
    folder = checkpoints_of(record)
    for path in (record, claim_of(record), folder):
        ours = not path.is_symlink() and (path.is_dir() if path == folder else path.is_file())
        if os.path.lexists(path) and not ours:
            wanted = "a folder of checkpoints" if path == folder else "a file"
            return f"{path} is in the way of {wanted} of this run: move it away"
    return ""


def clear(record: Path) -> None:
    """Remove what a process that was killed at its end has left beside a finished record: claim and checkpoints.

    Checkpoints newer than the record are of a later run of it, and stay.
    """
    claim, folder = claim_of(record), checkpoints_of(record)
    if not (claim.exists() or folder.is_dir()) or claimant(claim):
        return
    with suppress(OSError), claimed(claim) as other:
        if not other and record.is_file():
            newest = max((file.stat().st_mtime for file in folder.glob("*")), default=0.0)
            if newest <= record.stat().st_mtime:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def claimed(path: Path) -> Iterator[str]:
    """Holds the claim at `path` inside the context, and yields ""; where another process holds it, yields who that is.

    The file goes with the claim. `filelock` would empty the file, which says who holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file, mine = _opened(path)
    with file:
        if not mine:
            yield _read(file)
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield ""
        finally:
            path.unlink(missing_ok=True)


def claimant(path: Path) -> str:
    """Who holds the claim at `path`; "" where nobody does."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | _NO_LINK), encoding="utf-8") as file:
            return "" if _locked(file, fcntl.LOCK_SH, patience=0.0) else _read(file)
    except OSError:
        return ""


def _opened(path: Path) -> tuple[TextIO, bool]:
    """The file at `path`, and whether it is locked for us; one that its last holder removed meanwhile is not it."""
    while True:
        file = os.fdopen(os.open(path, _OPENING, 0o666), "a+", encoding="utf-8")
        if not _locked(file, fcntl.LOCK_EX):
            return file, False
        if _is_at(file, path):
            return file, True
        file.close()


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


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read(file: TextIO) -> str:
    file.seek(0)
    return file.read() or "another process"
