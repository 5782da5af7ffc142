"""Checkpoints as files: written whole or not at all, with a digest, and read without running what is in them.

The digest is the comment of the zip archive that `torch.save` makes, so torch, Lightning and every zip reader still
open the file. It is the SHA-256 of the archive as it was before the comment. A file without a comment, such as one of
Lightning's own, is read without that check.
"""

import hashlib
import os
import re
import shutil
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from lit_fa.errors import UserError
from lit_fa.outputs import written

TORN = "empty, torn or no checkpoint"
DAMAGED = "damaged, its bytes are not those that were written"
_TAG = b"lit-fa sha256 "
_COMMENT = len(_TAG) + 64  # bytes
_SIZE = _COMMENT.to_bytes(2, "little")  # how the archive's last record gives the length of its comment
_PLAIN_END = re.compile(rb"PK\x05\x06.{16}\x00\x00", re.DOTALL)  # the last record of an archive without a comment
_CHUNK = 1 << 20


class UnreadableError(UserError):
    """A file that is no checkpoint, is damaged, or would run code if it were read.

    Args:
        path: of the file.
        reason: why it cannot be read.
        unsafe: it holds more than plain data, which only `weights_only=False` reads.
    """

    def __init__(self, path: str | Path, reason: str, *, unsafe: bool = False):
        """See the class."""
        super().__init__(f"{path}: {reason}")
        self.reason, self.unsafe = reason, unsafe


def save(content: object, path: str | Path) -> None:
    """`torch.save` with a digest, to a file beside `path` that takes its place once it is on the disk.

    Raises:
        UserError: the folder or the disk does not take it; what was at `path` before is still there.
    """
    with written(path, ending=".part", follow=False) as part, part.open("r+b") as file:
        writer = _Digesting(file)
        try:
            torch.save(content, writer)
        except Exception as error:  # torch reports a full disk by errors of its own
            raise writer.failed or error from None
        file.seek(-2, os.SEEK_END)
        file.write(_SIZE + _TAG + writer.digest().encode())


def read(path: str | Path, map_location: Any = "cpu", *, weights_only: bool = True, mmap: bool = False) -> Any:
    """What a checkpoint holds.

    Args:
        path: of a file on this machine.
        map_location: as for `torch.load`.
        weights_only: read plain data alone; False runs whatever the file asks for.
        mmap: leave tensors on the disk until they are used.

    Raises:
        UnreadableError: the file is torn, damaged, no checkpoint, or holds more than plain data.
    """
    try:
        zipped = _check_digest(path)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Detected pickle protocol"
            )  # of a file that is refused or read all the same
            return torch.load(path, map_location=map_location, weights_only=weights_only, mmap=mmap and zipped)
    except (UserError, torch.OutOfMemoryError):
        raise
    except UnpicklingError as error:
        raise _unpicklable(path, error) from None
    except OSError as error:
        raise UnreadableError(path, f"cannot be read ({error.strerror or TORN})") from None
    except Exception:  # zip, pickle and torch each have their own errors for a broken file
        raise UnreadableError(path, TORN) from None


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used, so that it is in nobody's way; returns its new path."""
    aside = path.with_name(f"{path.name}.unreadable")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    aside.unlink(missing_ok=True)
    return path.rename(aside)


class _Digesting:
    """What `torch.save` writes to: hands everything on to a file and takes its digest."""

    def __init__(self, file: IO[bytes]):
        self._file, self._hash, self.failed = file, hashlib.sha256(), None

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        return self._hash.hexdigest()


def _check_digest(path: str | Path) -> bool:
    """Whether the file is a zip archive.

    Raises:
        UnreadableError: its digest is wrong, or its end is not what was written.
    """
    with Path(path).open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _COMMENT, 0))
        end = file.read()
        if end.startswith(_TAG):
            if end[len(_TAG) :].decode("latin-1") != _digest(file, size - _COMMENT):
                raise UnreadableError(path, DAMAGED)
        elif zipped and not _PLAIN_END.fullmatch(end[-22:]):
            raise UnreadableError(path, TORN if b"sha256" not in end else DAMAGED)
    return zipped


def _digest(file: IO[bytes], size: int) -> str:
    """Of the first `size` bytes, as they were before the comment; "" where they do not give the comment's length."""
    file.seek(0)
    found, left = hashlib.sha256(), size - 2
    while left > 0 and (chunk := file.read(min(_CHUNK, left))):
        found.update(chunk)
        left -= len(chunk)
    if file.read(2) != _SIZE:
        return ""
    found.update(b"\x00\x00")
    return found.hexdigest()


def _unpicklable(path: str | Path, error: UnpicklingError) -> UnreadableError:
    said = str(error)
    if "Weights only" not in said or ("nsupported" not in said and "nrecognized" not in said):
        return UnreadableError(path, TORN)
    named = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", said.rpartition("WeightsUnpickler error")[2])
    what = f" ({named[1]})" if named else ""
    return UnreadableError(path, f"it holds more than plain data{what}, and reading that runs code", unsafe=True)
