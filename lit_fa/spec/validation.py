"""Strict reading of YAML into frozen pydantic dataclasses: a wrong entry is one line with file, key and remedy."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from lit_fa.bounded_reading import bounded, reason
from lit_fa.config.yaml_reader import load
from lit_fa.errors import UserError, nearest
from lit_fa.escaping import plain, short

T = TypeVar("T")
Name = TypeVar("Name", bound=str)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_MAX_BYTES = 16 << 20  # of a file
_MAX_NAME_BYTES = 200
_MAX_NUMBER = 1e150  # squares and sums of such numbers are still finite


@dataclass(frozen=True)
class Entry:
    """A mapping of a YAML file. Its keys are the fields of the subclass; an unknown key is refused with the nearest."""

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, data: Any) -> Any:
        return check_keys(data, cls.__dataclass_fields__) if isinstance(data, dict) else data


class OneOf:
    """In `Annotated[Literal[...], OneOf()]`: a value outside the literal is refused with the nearest."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check before pydantic does."""
        return core_schema.no_info_before_validator_function(lambda v: choice(v, get_args(source)), handler(source))


def number(value: Any) -> float:
    """`value` itself, if it is a finite number; an int stays an int."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_NUMBER:
        hint = "; write it without quotes, and to W&B 1.0e-3 for 1e-3" if isinstance(value, str) else ""
        raise UserError(f"expected a number, got {short(value)}{hint}")
    return value


def whole(value: float) -> float:
    """`value` itself, if it is a whole number."""
    if value != int(value):
        raise UserError(f"{value} is not a whole number; write one")
    return value


def _line(text: str) -> str:
    if plain(text) != text:
        raise UserError(f"{short(text)} is not one line of printable characters; write it in one line")
    return text


def _name(text: str) -> str:
    if not text or text != text.strip():
        raise UserError(f"{short(text)} is no name; write it without blanks at its ends")
    return text


def file_name(text: str) -> str:
    """`text` itself, if it can be the name of a file or folder."""
    if text in ("", ".", "..") or set(text) & {"/", "\\"} or len(text.encode()) > _MAX_NAME_BYTES:
        raise UserError(f"{short(text)} names files; write a word of letters, digits and dashes, not a path")
    return text


Number = Annotated[float, PlainValidator(number)]
Positive = Annotated[Number, Field(ge=0)]
Count = Annotated[Number, Field(ge=1), AfterValidator(whole)]
Line = Annotated[str, AfterValidator(_line)]
MetricName = Annotated[Line, AfterValidator(_name)]
FileName = Annotated[Line, AfterValidator(file_name)]  # a path would lead elsewhere
Filled = Field(min_length=1)
_MESSAGES = {  # by pydantic's type of an error
    "missing": "the key {key!r} is missing; add it",
    "value_error": "{error}",
    **dict.fromkeys(("dataclass_type", "dict_type"), "expected a mapping, got {type}; write key: value"),
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list with at least one entry, got {value}"),
    "too_short": "is empty; write at least one entry",
    "greater_than_equal": "{value} is too small; at least {ge} is needed",
    "greater_than": "{value} is too small; more than {gt} is needed",
    **dict.fromkeys(("string_type", "string_unicode"), "expected text, got {value}; put it in quotes"),
}


def validated(kind: type[T], data: Any, where: str) -> T:
    """`data` as a `kind`, a class or an annotation of pydantic's.

    Raises:
        UserError: one line: `where`, the path of keys to the first wrong entry, what is wrong and what to write.
    """
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    path = _key_path(first["loc"], data, missing=first["type"] == "missing")
    join = "" if not path else "." if ": " in where else ": "  # keys follow keys, or the file
    raise UserError(plain(f"{where}{join}{path}: {_message(first)}")) from None


def _key_path(parts: tuple[int | str, ...], data: Any, *, missing: bool) -> str:
    """`cells[0].published.std`; pydantic's names of union members, which are no keys of `data`, are left out."""
    path = ""
    for part in parts[:-1] if missing else parts:
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if inside:
            data = data[part]
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _message(error: ErrorDetails) -> str:
    """What is wrong and what to write."""
    value, kind, path = error["input"], error["type"], error["loc"]
    if value is None and kind != "missing":
        return "has no value; write one" if path else "is empty; expected a mapping"
    words = {"key": path[-1] if path else "", "value": short(value), "type": _kind(value)}
    return _MESSAGES.get(kind, f"{error['msg']}, got {{value}}").format(**words, **error.get("ctx", {}))


def _kind(data: Any) -> str:
    """The type of a value whose content may be a private file's."""
    return {"str": "text", "list": "a list", "bool": short(data)}.get(type(data).__name__, f"a {type(data).__name__}")


def check_keys(data: dict[Any, Any], known: Collection[str], where: str = "") -> dict[Any, Any]:
    """`data` itself, if `known` has all its keys."""
    for key in data:
        if key not in known:
            raise UserError(f"{where and where + ': '}unknown key {short(key)}; {nearest(key, known)}")
    return data


def choice(value: Any, valid: Collection[Name], where: str = "") -> Name:
    """`value` itself, if it is one of `valid`."""
    if isinstance(value, list | dict) or value not in valid:
        raise UserError(f"{where and where + ': '}unknown {short(value)}; {nearest(value, valid)}")
    return value


def read_yaml(path: Path | str) -> Any:
    """The content of a YAML file of a table or sweep: a regular file of a bounded size.

    Raises:
        UserError: the file is not there, cannot be read, is not text, or is not YAML.
    """
    try:
        return load(bounded(Path(path), _MAX_BYTES).decode("utf-8-sig"), plain(str(path)))
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{plain(str(path))}: cannot be read ({reason(error)}); give the path of a YAML file") from None


def printable(data: Any, where: str) -> Any:
    """`data` itself, if no text in it has a character that files cannot store: NUL, an escape, half of a pair."""
    left, seen = [data], set[int]()
    while left:
        node = left.pop()
        if isinstance(node, dict | list):
            if id(node) in seen:
                continue  # an anchor that is used twice, or inside itself
            seen.add(id(node))
        left += [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list) else []
        if isinstance(node, str) and _UNPRINTABLE.search(node):
            raise UserError(f"{where}: {short(node)} has a character that cannot be printed; remove it")
    return data
