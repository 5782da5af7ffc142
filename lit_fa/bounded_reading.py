"""Reading of files that others made: a bounded number of bytes, of regular files only, and JSON that can be trusted.

A pipe is not waited for, a link to /dev/zero has no end, and JSON may be nested deeper than Python can follow.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

LARGEST = 64 << 20  # bytes; the largest of our records has 40 kB
DEEPEST = 60  # levels of lists and mappings


def bounded(path: Path, most: int = LARGEST) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it is not there or cannot be read.
        ValueError: it is something else than a file, or has more than `most` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("it is a folder" if stat.S_ISDIR(mode) else "it is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise ValueError(f"it has more than {most >> 20} MiB")
    return data


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: as `bounded`.
        ValueError: as `bounded`; or it is no JSON, nested too deep, or holds half of a surrogate pair.
    """
    try:
        data = json.loads(bounded(path).decode())
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check(data)
    return data


def reason(error: OSError | ValueError) -> str:
    """Why a file could not be read, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return "half-written or not JSON"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    said = getattr(error, "strerror", None) or str(error)
    return f"{said[:1].lower()}{said[1:]}"


def _check(data: Any) -> None:
    """Refuse text that cannot be written again, and depth that a reader of the data could not follow."""
    level, depth = [data], 0
    while level:
        if depth > DEEPEST:
            raise ValueError("it is nested too deep")
        inside: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inside += [*node, *node.values()]
            elif isinstance(node, list):
                inside += node
            elif isinstance(node, str) and not _whole(node):
                raise ValueError("it holds half of a surrogate pair")
        level, depth = inside, depth + 1


def _whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
