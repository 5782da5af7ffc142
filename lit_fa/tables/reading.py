"""Strict reading of YAML into frozen dataclasses: what is not understood is named, never ignored."""

from collections.abc import Collection
from dataclasses import MISSING, fields
from math import isfinite
from typing import Any, TypeVar

from lit_fa.errors import UserError, nearest
from lit_fa.reading import read_yaml

__all__ = ["build", "choice", "keys", "mapping", "number", "read_yaml", "sequence", "text"]

T = TypeVar("T")
LARGEST = 1e308  # of a number


def shown(value: Any, most: int = 80) -> str:
    """A value in an error: not more of it than a line has room for."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


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
            raise UserError(f"{where}: unknown key {key!r}; {nearest(key, list(known))}")
    for key in required:
        if data.get(key) is None:
            raise UserError(f"{where}: the key {key!r} is missing; add it")
    return data


def mapping(data: Any, where: str) -> dict:
    """`data` itself, once it is a mapping with text keys."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a mapping, got {shown(data)}; write key: value")
    for key in data:
        if not isinstance(key, str):
            raise UserError(f"{where}: the key {key!r} is not text; put it in quotes")
    return data


def sequence(data: Any, where: str) -> list:
    """`data` itself, once it is a list with at least one entry."""
    if not isinstance(data, list) or not data:
        raise UserError(f"{where}: expected a list with at least one entry, got {shown(data)}")
    return data


def choice(value: Any, where: str, valid: Collection[str]) -> str:
    """`value` itself, once it is one of `valid`."""
    if value not in valid:
        raise UserError(f"{where}: unknown {shown(value)}; {nearest(value, list(valid))}")
    return value


def number(value: Any, where: str, *, least: float | None = None) -> float:
    """`value` itself, once it is a finite number that is not below `least`."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    if not whole and not (isinstance(value, float) and isfinite(value)):
        raise UserError(f"{where}: expected a number, got {shown(value)}")
    if least is not None and value < least:
        raise UserError(f"{where}: {value} is too small; at least {least} is needed")
    return value


def text(value: Any, where: str) -> str:
    """`value` itself, once it is text: 2306.01870 without quotes is a number and has lost its last digit."""
    if not isinstance(value, str):
        raise UserError(f"{where}: expected text, got {shown(value)}; put it in quotes")
    return value
