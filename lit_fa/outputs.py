"""Atomic writing of all output files, and checks before a run that they can be written.

`written` yields a temporary file next to the target and renames it if the block succeeds. After a failure the old file
is unchanged, the temporary file is deleted, and the error is one line that names the target. A target that is a link
stays a link, a file keeps its mode, and a read-only file is refused.
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lit_fa.errors import UserError
from lit_fa.faults import while_writing
from lit_fa.operating_system import flags
from lit_fa.parts import part_of, publish

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DEVICES = ("/dev/fd/", "/dev/std", "/proc/")  # written directly, because no file can be renamed to them
_SPACE = 1 << 20  # bytes; a disk with less free space counts as full


@contextmanager
def written(path: str | Path, option: str = "", ending: str = ".tmp", *, follow: bool = True) -> Iterator[Path]:
    """Yield a temporary file to write; it is renamed to `path` when the block ends without an error.

    Args:
        path: of the file; missing folders are created.
        option: that named it, for the error.
        ending: of the temporary file's name, for libraries that depend on it.
        follow: if `path` is a link, write its target; otherwise the link is replaced.

    Raises:
        UserError: it cannot be written. The block must only write, because every OSError in it is reported as this.
    """
    try:
        target = _target(Path(path), follow)
        device = _is_device(target) and (follow or not target.is_symlink())
        with part_of(target, ending, device=device) as part:
            yield part
            while_writing(path)
            publish(part, target, device=device)
    except OSError as error:
        raise UserError(cannot_write(path, error, option)) from error


def write_text(path: str | Path, text: str, option: str = "", *, follow: bool = True) -> Path:
    """Write `text` in UTF-8, line ends as they are; returns the path.

    Raises:
        UserError: as `written`; or the text contains half of a surrogate pair, which UTF-8 cannot encode.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{_named(path, option)}: {error.object[error.start]!a} is no character") from None
    with written(path, option, follow=follow) as part, part.open("wb") as file:
        file.write(data)
    return Path(path)


def growing(path: Path) -> BinaryIO:
    """An empty file that is written step by step, such as a log; a link at `path` is replaced, not followed.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()
        how = flags("O_WRONLY", "O_CREAT", "O_TRUNC", "O_NOFOLLOW", "O_NONBLOCK")
        return open(os.open(path, how, 0o666), "wb")  # the writer of this file
    except OSError as error:
        raise UserError(cannot_write(path, error)) from error


def writable_file(path: str | Path, option: str) -> Path:
    """The path, after a check that a file can be written there; nothing is created.

    Raises:
        UserError: it is a folder or read-only, or its folder is not writable or cannot be created.
    """
    path = Path(path)
    try:
        if not path.name or path.is_dir():
            raise UserError(f"{option} {path}: is a folder; name a file in it")
        target = _target(path)
    except OSError as error:
        raise UserError(cannot_write(path, error, option)) from None
    if not _is_device(target):
        check_folder(target.parent if path.is_symlink() else path.parent, option)
    return path


def writable_folder(folder: str | Path, option: str) -> Path:
    """The folder, which is created if necessary.

    Raises:
        UserError: it cannot be created, or is not writable.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try(folder)
    except (OSError, ValueError) as error:
        raise UserError(_no_folder(folder, option, error)) from None
    return folder


def check_folder(folder: str | Path, option: str) -> None:
    """Refuse a folder that is not writable or cannot be created; nothing is created.

    Raises:
        UserError: as `writable_folder`.
    """
    place = Path(folder).absolute()
    try:
        os.lstat(place)  # fails if the name is too long
    except (OSError, ValueError) as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise UserError(_no_folder(folder, option, error)) from None
    try:
        _try(next(above for above in (place, *place.parents) if os.path.lexists(above)))
    except OSError as error:
        raise UserError(_no_folder(folder, option, error)) from None


def usable_folder(folder: Path) -> Path:
    """The folder, or a new temporary folder if it is not writable.

    Raises:
        UserError: no temporary folder is writable either.
    """
    try:
        check_folder(folder, "")
    except UserError:
        try:
            return Path(tempfile.mkdtemp(prefix="lit-fa-"))
        except OSError as error:
            raise UserError(f"neither {folder} nor a temporary folder takes files; {_TMPDIR}") from error
    return folder


def cannot_write(path: str | Path, error: OSError | ValueError, option: str = "") -> str:
    """The message for an error of writing `path`; it names TMPDIR if the disk of temporary files is full."""
    reason = getattr(error, "strerror", None) or str(error)
    line = f"{_named(path, option)}: cannot be written ({reason})"
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{line}; {space_left(error)}"
    return f"{line}; name a file that can be"


def space_left(error: OSError) -> str:
    """The remedy for a full disk, with the full folder if it is known."""
    temporary = Path(os.environ.get("TMPDIR") or "/tmp").resolve()
    named = Path(os.fsdecode(error.filename)).absolute() if isinstance(error.filename, str | bytes) else None
    if (named and temporary in named.parents) or (named is None and _is_full(temporary) and not _is_full(Path.cwd())):
        return f"the folder of temporary files, {temporary}, is full: {_TMPDIR}"
    return "free space on its disk, or name another one"


_TMPDIR = "set TMPDIR to a folder with space"


def _named(path: str | Path, option: str) -> str:
    return f"{option} {path}".strip()


def _no_folder(folder: str | Path, option: str, error: OSError | ValueError) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"{option}: cannot write in {folder} ({reason}); name another folder".removeprefix(": ")


def _target(path: Path, follow: bool = True) -> Path:
    """The path to write: a device itself, or the final target of links.

    Raises:
        OSError: no file can be there, or it is read-only.
    """
    try:
        if not follow and path.is_symlink():
            return Path(os.path.realpath(path.parent)) / path.name
        if _is_device(path):
            return path
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), ascii(str(path))) from None
    except (FileNotFoundError, NotADirectoryError):
        return target
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISREG(mode) and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is read-only", str(path))
    return target


def _is_device(path: Path) -> bool:
    """Whether the path is not a file on a disk but a pipe, a terminal or /dev/null."""
    if str(path.absolute()).startswith(_DEVICES) and os.path.exists(path):  # a closed descriptor is none
        return True
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _SPACE
    except OSError:
        return False


def _try(folder: Path) -> None:
    """Write one byte into a file without a name; an empty file would need no space."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\n")
