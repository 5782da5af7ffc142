"""Safe reading of files of unknown origin: regular files only, a limited number of bytes, and valid JSON.

Without these limits, reading a pipe would block, a link to /dev/zero would not end, and deeply nested JSON would exceed
Python's recursion limit.
"""

import json
import os
import re
import stat
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from lit_fa.operating_system import flags

LARGEST = 64 << 20  # bytes; our records have at most 40 kB
DEEPEST = 60  # levels of lists and mappings
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that may be half of a pair
_PART = 1 << 16  # bytes; the system gives some files the size 0
_SCALARS = {int, float, str, bool, type(None)}


def bounded(path: Path, most: int = LARGEST) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it does not exist or cannot be read.
        ValueError: it is not a regular file, or has more than `most` bytes.
    """
    descriptor = os.open(path, flags("O_RDONLY", "O_NONBLOCK", "O_NOCTTY"))
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is a folder" if stat.S_ISDIR(state.st_mode) else "it is no regular file")
        data = _content(descriptor, max(min(state.st_size, most) + 1, _PART), most)
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise ValueError(f"it has more than {most >> 20} MiB")
    return data


def _content(descriptor: int, expected: int, most: int) -> bytes:
    """The content of an open file, up to `most` + 1 bytes; one call of the system if it has the expected size."""
    parts, left = [], most + 1
    while left and (part := os.read(descriptor, min(expected, left))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def read_json(path: Path, *, flat: str = "") -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        flat: a key whose value the caller checks to be flat, such as a record's curves; its depth is not checked here.

    Raises:
        OSError: as `bounded`.
        ValueError: as `bounded`; or it is not JSON, nested too deep, or contains half of a surrogate pair.
    """
    content = bounded(path)
    try:
        data = from_json(content)  # what it accepts, json.loads reads as the same value, in three times the time
    except ValueError:
        data = _parsed(content.decode())
    _check_depth({key: data[key] for key in data if key != flat} if flat and isinstance(data, dict) else data)
    return data


def _parsed(text: str) -> Any:
    """What `from_json` refuses, by json.loads, whose errors `reason` knows; half of a surrogate pair is refused."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if _SURROGATE.search(text):  # UTF-8 itself has none
        _check_text(data)
    return data


def reason(error: OSError | ValueError | RecursionError) -> str:
    """The reason why a file could not be read, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return "half-written or not JSON"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    text = getattr(error, "strerror", None) or str(error)
    return f"{text[:1].lower()}{text[1:]}"


def _check_depth(data: Any) -> None:
    """Refuse data that are nested too deep."""
    level, depth = [data], 0
    while level:
        if depth > DEEPEST:
            raise ValueError("it is nested too deep")
        level, depth = [node for outer in level for node in _nested(outer)], depth + 1


def _nested(data: Any) -> Iterable[Any]:
    """What is directly inside, unless that is scalars or, as in a curve, lists of scalars."""
    inside = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    kinds = {*map(type, inside)}
    if kinds == {list} and _SCALARS.issuperset(map(type, chain.from_iterable(inside))):
        return ()
    return () if kinds <= _SCALARS else inside


def _check_text(data: Any) -> None:
    """Refuse text that cannot be encoded."""
    level = [data]
    while level:
        inside: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inside += [*node, *node.values()]
            elif isinstance(node, list):
                inside += node
            elif isinstance(node, str) and not _encodable(node):
                raise ValueError("it holds half of a surrogate pair")
        level = inside


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
