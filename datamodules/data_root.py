"""Where data sets lie, and how to read them there: torchvision's readers with errors that say what to do."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

from filelock import FileLock, Timeout
from torchvision.datasets.utils import calculate_md5

from datamodules.errors import DataError, one_line

ELSEWHERE = "set LIT_FA_DATA or --data.init_args.root to a folder that holds it"
OFFLINE = ("error downloading", "not found", "download failed", "urlopen")


def data_root(root: str | None) -> Path:
    """The folder of all data sets: `root`, else the environment's LIT_FA_DATA, else ./data."""
    return Path(root or os.environ.get("LIT_FA_DATA") or "data").expanduser()


def cache_root() -> Path:
    """What can be made again and is kept: the environment's LIT_FA_CACHE, else ~/.cache/lit-fa."""
    return Path(os.environ.get("LIT_FA_CACHE") or "~/.cache/lit-fa").expanduser()


def cache_folder(name: str) -> Path:
    """A folder in `cache_root`, made where it was not there.

    Raises:
        DataError: it cannot be made.
    """
    folder = cache_root() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror}): set LIT_FA_CACHE to a folder") from None
    return folder


def opened(
    reader: Callable[..., Any],
    name: str,
    root: Path,
    download: bool,
    checksums: Iterable[tuple[Path, str]],
    **options: Any,
) -> Any:
    """`reader(root=..., download=..., **options)`, one process at a time; what goes wrong is a DataError of one line.

    Args:
        checksums: files and their MD5: looked at only after a failure, to name the broken one.
    """
    try:
        with alone(root / f".{name}.lock", wanted=download):
            return reader(root=root, download=download, **options)
    except DataError:
        raise
    except Exception as error:  # readers raise what their formats raise: OSError, EOFError, UnpicklingError, ...
        raise explained(error, name, root, download, checksums) from error


def explained(
    error: Exception, name: str, root: Path, download: bool, checksums: Iterable[tuple[Path, str]]
) -> DataError:
    """What a person should do about a failed read: replace a broken file, get a network, or point elsewhere."""
    for path, md5 in checksums:
        if path.is_file() and calculate_md5(path) != md5:
            return DataError(f"{path}: wrong checksum, truncated or not the original; delete it and run with a network")
    if root.exists() and not root.is_dir():
        return DataError(f"{name}: {root.resolve()} is a file and no folder: {ELSEWHERE}")
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
def alone(path: Path, *, wanted: bool, seconds: float = 1800) -> Iterator[None]:
    """Hold a lock file while unpacking, so that runs started together do not read each other's half-written files."""
    lock = FileLock(path, timeout=seconds)
    if wanted:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise DataError(f"{path} is held by another run: wait for it, or delete the file") from error
        except OSError:
            pass  # a folder that cannot be written to cannot be unpacked into either: nothing to protect
    try:
        yield
    finally:
        lock.release()
