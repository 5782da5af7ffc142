"""Whether what a command shall write can be written, found before the work."""

import tempfile
from pathlib import Path

from lit_fa.errors import UserError


def writable_file(path: str | Path, option: str) -> Path:
    """The file's path, once its folder is there and takes files.

    Args:
        path: to be written later.
        option: that names it, for the error.

    Raises:
        UserError: it is a folder, or nothing can be written beside it.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise UserError(f"{option} {path}: is a folder; name a file in it")
    writable_folder(path.parent, option)
    return path


def writable_folder(folder: str | Path, option: str) -> Path:
    """The folder, made where it was not there.

    Raises:
        UserError: it cannot be made, or takes no files.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try(folder)
    except OSError as error:
        raise UserError(f"{option}: cannot write in {folder} ({error.strerror}); name another folder") from None
    return folder


def check_folder(folder: str | Path, option: str) -> None:
    """Refuse a folder that takes no files, or that could not be made; makes nothing.

    Raises:
        UserError: as `writable_folder`.
    """
    folder = Path(folder).absolute()
    try:
        _try(next(place for place in (folder, *folder.parents) if place.exists()))
    except OSError as error:
        raise UserError(f"{option}: cannot write in {folder} ({error.strerror}); name another folder") from None


def _try(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass
