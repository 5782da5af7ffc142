"""Folders of data sets and caches; torchvision's readers with one-line errors that name the remedy."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

from filelock import FileLock, Timeout
from torchvision.datasets.utils import calculate_md5

from lit_fa.datamodules.errors import DataError, one_line

ELSEWHERE = "set LIT_FA_DATA or --data.init_args.root to a folder that has it"
OFFLINE = ("error downloading", "not found", "download failed", "urlopen")


def data_root(root: str | None) -> Path:
    """The folder of all data sets: `root`, else the environment variable LIT_FA_DATA, else ./data."""
    return Path(root or os.environ.get("LIT_FA_DATA") or "data").expanduser()


def cache_root() -> Path:
    """The folder of cached files: the environment variable LIT_FA_CACHE, else ~/.cache/lit-fa."""
    return Path(os.environ.get("LIT_FA_CACHE") or "~/.cache/lit-fa").expanduser()


def cache_folder(name: str) -> Path:
    """A folder in `cache_root`; it is created if necessary.

    Raises:
        DataError: it cannot be created.
    """
    folder = cache_root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be created ({error.strerror}): set LIT_FA_CACHE to a folder") from None
    return folder


def opened(
    reader: Callable[..., Any],
    name: str,
    root: Path,
    download: bool,
    checksums: Iterable[tuple[Path, str]],
    **options: Any,
) -> Any:
    """Call `reader(root=..., download=..., **options)` in one process at a time.

    Args:
        reader: a data set class of torchvision or medmnist.
        name: of the data set, for messages and the lock file.
        root: folder of the data set.
        download: whether the reader may download and unpack.
        checksums: files and their MD5, computed only after a failure, to find a broken file.
        options: of the reader.

    Raises:
        DataError: the reader failed; the message is one line that names the remedy.
    """
    try:
        with locked(root / f".{name}.lock", wanted=download):
            return reader(root=root, download=download, **options)
    except DataError:
        raise
    except Exception as error:  # readers raise what their formats raise: OSError, EOFError, UnpicklingError, ...
        raise explained(error, name, root, download, checksums) from error


def explained(
    error: Exception, name: str, root: Path, download: bool, checksums: Iterable[tuple[Path, str]]
) -> DataError:
    """An error that names the remedy for a failed read: replace a broken file, use a network or another folder."""
    for path, md5 in checksums:
        if path.is_file() and calculate_md5(path) != md5:
            return DataError(f"{path}: wrong checksum, truncated or not the original; delete it and run with a network")
    if root.exists() and not root.is_dir():
        return DataError(f"{name}: {root.resolve()} is a file, not a folder: {ELSEWHERE}")
    missing = isinstance(error, (URLError, FileNotFoundError)) or any(word in str(error).lower() for word in OFFLINE)
    if missing and not download:
        return DataError(f"{name} is not in {root.resolve()}: allow download, or {ELSEWHERE}")
    if missing:
        reason = one_line(error)
        return DataError(f"{name} is not in {root.resolve()} ({reason}): run once with a network, or {ELSEWHERE}")
    if isinstance(error, PermissionError):
        return DataError(f"{name}: no permission in {root.resolve()} ({one_line(error)}): copy it where you may write")
    return DataError(
        f"{name} in {root.resolve()} cannot be read ({type(error).__name__}: {one_line(error)}): "
        "delete its unpacked files there and run again"
    )


@contextmanager
def locked(path: Path, *, wanted: bool, seconds: float = 1800) -> Iterator[None]:
    """Hold a lock file while unpacking, so that concurrent runs do not read partially written files.

    Args:
        path: the lock file.
        wanted: whether to lock at all.
        seconds: how long to wait for another process.

    Raises:
        DataError: another process holds the lock for too long.
    """
    lock = FileLock(path, timeout=seconds)
    if wanted:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise DataError(f"{path} is held by another run: wait for it, or delete the file") from error
        except OSError:
            pass  # nothing can be unpacked into a folder that is not writable, so no lock is needed
    try:
        yield
    finally:
        lock.release()
