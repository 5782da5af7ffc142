"""Strict reading of YAML into frozen dataclasses: what is not understood is named, never ignored."""

import re
from collections.abc import Collection
from dataclasses import MISSING, fields
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lit_fa.errors import UserError, nearest

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 as a number, as the training command does, and refuses a key written twice."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    if twice is not None:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is written twice", node.start_mark)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; one line that names file and line number when it cannot be read.

    Raises:
        UserError: the file is not there, is not text, or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; give the path of a YAML file") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None


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
        raise UserError(f"{where}: expected a mapping, got {data!r}; write key: value")
    for key in data:
        if not isinstance(key, str):
            raise UserError(f"{where}: the key {key!r} is not text; put it in quotes")
    return data


def sequence(data: Any, where: str) -> list:
    """`data` itself, once it is a list with at least one entry."""
    if not isinstance(data, list) or not data:
        raise UserError(f"{where}: expected a list with at least one entry, got {data!r}")
    return data


def choice(value: Any, where: str, valid: Collection[str]) -> str:
    """`value` itself, once it is one of `valid`."""
    if value not in valid:
        raise UserError(f"{where}: unknown {value!r}; {nearest(value, list(valid))}")
    return value


def number(value: Any, where: str, *, least: float | None = None) -> float:
    """`value` itself, once it is a finite number that is not below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise UserError(f"{where}: expected a number, got {value!r}")
    if least is not None and value < least:
        raise UserError(f"{where}: {value} is too small; at least {least} is needed")
    return value


def text(value: Any, where: str) -> str:
    """`value` itself, once it is text: 2306.01870 without quotes is a number and has lost its last digit."""
    if not isinstance(value, str):
        raise UserError(f"{where}: expected text, got {value!r}; put it in quotes")
    return value
