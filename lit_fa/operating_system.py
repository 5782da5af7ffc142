"""What differs between Linux, macOS and Windows: locks of open files, flags of `os.open`, signals that can be blocked.

Python on Windows has no `fcntl`, no `resource`, no `os.killpg` and fewer signals. Modules that need them import this
one, so that all of lit-fa can be imported everywhere. What cannot work is refused in one line (docs/platforms.md).
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Protocol

from lit_fa.errors import UserError

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _locks: ModuleType | None = None
else:
    _locks = _fcntl

POSIX_ALONE = "use Linux, macOS, or the Windows Subsystem for Linux"


class HasDescriptor(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Its descriptor."""


def can_lock() -> bool:
    """Whether open files can be locked here."""
    return _locks is not None


def lock(file: int | HasDescriptor, *, wait: bool) -> None:
    """Lock an open file until it is closed or the process ends; without `wait` only if nobody holds it.

    Raises:
        OSError: another process holds the lock, or the file system has none.
        UserError: this operating system has no such locks.
    """
    if _locks is None:
        raise UserError(f"files cannot be locked on this operating system: {POSIX_ALONE}")
    _locks.flock(file, _locks.LOCK_EX | (0 if wait else _locks.LOCK_NB))


def flags(*names: str) -> int:
    """The flags of `os.open` among these names that this operating system has; files are opened in binary mode.

    >>> flags("O_RDONLY", "O_NO_SUCH_FLAG") == os.O_RDONLY
    True
    """
    found = 0
    for name in (*names, "O_BINARY"):
        found |= getattr(os, name, 0)
    return found


@contextmanager
def blocked(*names: str) -> Iterator[None]:
    """Within the context these signals are held back, also from processes that start in it; no effect on Windows."""
    mask = getattr(signal, "pthread_sigmask", None)
    if mask is None:
        yield
        return
    before = mask(signal.SIG_BLOCK, {getattr(signal, name) for name in names if hasattr(signal, name)})
    try:
        yield
    finally:
        mask(signal.SIG_SETMASK, before)


def needs_posix(what: str) -> None:
    """Refuse what needs groups of processes and user ids.

    Raises:
        UserError: this operating system has none; `what` is the beginning of the line.
    """
    if not hasattr(os, "killpg") or not hasattr(os, "getuid"):
        raise UserError(f"{what} needs groups of processes, which this operating system lacks: {POSIX_ALONE}")
