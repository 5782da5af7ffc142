"""Checkpoint files: written atomically, with a digest, and read without executing code.

The digest is the comment of the zip archive that `torch.save` writes, so torch, Lightning and every zip reader can open
the file. It is the SHA-256 of the archive without the comment. A file without a comment, such as one written by
Lightning, is read without this check.
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
_SIZE = _COMMENT.to_bytes(2, "little")  # length of the comment in the archive's last record
_PLAIN_END = re.compile(rb"PK\x05\x06.{16}\x00\x00", re.DOTALL)  # the last record of an archive without a comment
_CHUNK = 1 << 20


class UnreadableError(UserError):
    """A file that is not a checkpoint, is damaged, or would execute code when it is read.

    Args:
        path: of the file.
        reason: why it cannot be read.
        unsafe: whether it contains more than plain data, which only `weights_only=False` reads.
    """

    def __init__(self, path: str | Path, reason: str, *, unsafe: bool = False):
        """See the class."""
        super().__init__(f"{path}: {reason}")
        self.reason, self.unsafe = reason, unsafe


def save(content: object, path: str | Path) -> None:
    """`torch.save` with a digest, to a temporary file that is then renamed to `path`.

    Raises:
        UserError: it cannot be written; an old file at `path` is unchanged.
    """
    with written(path, ending=".part", follow=False) as part, part.open("r+b") as file:
        writer = _Digesting(file)
        try:
            torch.save(content, writer)  # type: ignore[arg-type]  # torch calls only `write` and `flush`
        except Exception as error:  # torch raises other exceptions for a full disk
            raise writer.failed or error from None
        file.seek(-2, os.SEEK_END)
        file.write(_SIZE + _TAG + writer.digest().encode())


def read(path: str | Path, map_location: Any = "cpu", *, weights_only: bool = True, mmap: bool = False) -> Any:
    """The content of a checkpoint.

    Args:
        path: of a file, or of the folder of a sharded checkpoint, on this machine.
        map_location: as for `torch.load`.
        weights_only: read plain data only; False may execute code of the file.
        mmap: read tensors from disk only when they are used.

    Raises:
        UnreadableError: the file is incomplete, damaged, not a checkpoint, or contains more than plain data.
    """
    from lit_fa.checkpoints import sharded  # it reads the files in the folder by this function

    if sharded.is_sharded(path):
        return sharded.read(path, map_location, weights_only=weights_only)
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
    except Exception:  # zip, pickle and torch have different exceptions for a broken file
        raise UnreadableError(path, TORN) from None


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is a file, or the folder of a sharded checkpoint."""
    from lit_fa.checkpoints import sharded

    return os.path.isfile(path) or sharded.is_sharded(path)


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used to `<name>.unreadable`; returns the new path."""
    aside = path.with_name(f"{path.name}.unreadable")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    aside.unlink(missing_ok=True)
    return path.rename(aside)


class _Digesting:
    """A file for `torch.save` that also computes the digest of what is written."""

    def __init__(self, file: IO[bytes]):
        self._file, self._hash = file, hashlib.sha256()
        self.failed: OSError | None = None

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
    """Check the digest; returns whether the file is a zip archive.

    Raises:
        UnreadableError: the digest is wrong, or the end of the file is damaged.
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
    """The digest of the first `size` bytes without the comment; "" if their end has another length of the comment."""
    file.seek(0)
    digest, left = hashlib.sha256(), size - 2
    while left > 0 and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    if file.read(2) != _SIZE:
        return ""
    digest.update(b"\x00\x00")
    return digest.hexdigest()


def _unpicklable(path: str | Path, error: UnpicklingError) -> UnreadableError:
    text = str(error)
    if "Weights only" not in text or ("nsupported" not in text and "nrecognized" not in text):
        return UnreadableError(path, TORN)
    named = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", text.rpartition("WeightsUnpickler error")[2])
    what = f" ({named[1]})" if named else ""
    return UnreadableError(path, f"it holds more than plain data{what}, and reading that runs code", unsafe=True)
