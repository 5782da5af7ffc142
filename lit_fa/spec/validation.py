"""Strict reading of YAML into frozen dataclasses: what is not understood is named, never ignored."""

import re
from collections.abc import Collection
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from lit_fa.bounded_reading import bounded, reason
from lit_fa.config.yaml_reader import load
from lit_fa.errors import UserError, nearest
from lit_fa.escaping import plain, short

T = TypeVar("T")
_UNKEPT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_MOST = 16 << 20  # bytes of a file
_LONGEST = 200  # bytes of a name
_LARGEST = 1e150  # squares and sums of such numbers are still finite


def read_yaml(path: Path | str) -> Any:
    """The content of a YAML file of a table or sweep: a regular file of a bounded size.

    Raises:
        UserError: the file is not there, cannot be read, is not text, or is not YAML.
    """
    try:
        return load(bounded(Path(path), _MOST).decode("utf-8-sig"), plain(str(path)))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deep") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{plain(str(path))}: cannot be read ({reason(error)}); give the path of a YAML file") from None


def kind(data: Any) -> str:
    """What a value is, where its content may be another file's and is nobody's business."""
    return {"NoneType": "nothing", "str": "text", "list": "a list", "bool": short(data)}.get(
        type(data).__name__, f"a {type(data).__name__}"
    )


def build(cls: type[T], data: Any, where: str) -> T:
    """`cls(**data)` for a dataclass whose fields are the allowed keys and whose defaults are the optional ones.

    Raises:
        UserError: `data` is no mapping, has a key that `cls` does not know, lacks one that it needs, or has something
            else where `cls` wants text.
    """
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    keys(data, where, [f.name for f in fields(cls)], required)
    for entry in fields(cls):
        if entry.type is str and entry.name in data:
            text(data[entry.name], f"{where}.{entry.name}")
    return cls(**data)


def keys(data: Any, where: str, known: Collection[str], required: Collection[str] = ()) -> dict:
    """`data` itself, once it is a mapping with every `required` key and none outside `known`."""
    mapping(data, where)
    for key in data:
        if key not in known:
            raise UserError(f"{where}: unknown key {short(key)}; {nearest(key, list(known))}")
    for key in required:
        if data.get(key) is None:
            raise UserError(f"{where}: the key {key!r} is missing; add it")
    return data


def mapping(data: Any, where: str) -> dict:
    """`data` itself, once it is a mapping with text keys."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a mapping, got {kind(data)}; write key: value")
    for key in data:
        if not isinstance(key, str):
            raise UserError(f"{where}: the key {short(key)} is not text; put it in quotes")
    return data


def sequence(data: Any, where: str) -> list:
    """`data` itself, once it is a list with at least one entry."""
    if not isinstance(data, list) or not data:
        raise UserError(f"{where}: expected a list with at least one entry, got {short(data)}")
    return data


def choice(value: Any, where: str, valid: Collection[str]) -> str:
    """`value` itself, once it is one of `valid`."""
    if isinstance(value, list | dict) or value not in valid:
        raise UserError(f"{where}: unknown {short(value)}; {nearest(value, list(valid))}")
    return value


def number(value: Any, where: str, *, least: float | None = None) -> float:
    """`value` itself, once it is a finite number that is not below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise UserError(f"{where}: expected a number, got {short(value)}")
    if least is not None and value < least:
        raise UserError(f"{where}: {value} is too small; at least {least} is needed")
    return value


def line(value: Any, where: str) -> str:
    """`value` itself, once it is text in one line, all of whose characters can be shown."""
    if plain(text(value, where)) != value:
        raise UserError(f"{where}: {short(value)} is not one line of printable characters; write it in one line")
    return value


def component(value: Any, where: str) -> str:
    """`value` itself, once it can be the name of a folder: a path would lead elsewhere."""
    if line(value, where) in ("", ".", "..") or set(value) & {"/", "\\"} or len(value.encode()) > _LONGEST:
        raise UserError(f"{where}: {short(value)} names files; write a word of letters, digits and dashes, not a path")
    return value


def printable(data: Any, where: str) -> Any:
    """`data` itself, once no text in it holds a character that files cannot keep: NUL, an escape, half of a pair."""
    left, seen = [data], set[int]()
    while left:
        node = left.pop()
        if isinstance(node, dict | list):
            if id(node) in seen:
                continue  # an anchor that is used twice, or inside itself
            seen.add(id(node))
        left += [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list) else []
        if isinstance(node, str) and _UNKEPT.search(node):
            raise UserError(f"{where}: {short(node)} holds a character that cannot be printed; remove it")
    return data


def text(value: Any, where: str) -> str:
    """`value` itself, once it is text: 2306.01870 without quotes is a number and has lost its last digit."""
    if not isinstance(value, str):
        raise UserError(f"{where}: expected text, got {short(value)}; put it in quotes")
    return value
