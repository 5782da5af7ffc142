"""The parser of `lit-fa fit`, which reads files and words with `lit_fa.config.yaml_reader`.

It changes the following behaviour of jsonargparse 4.53: the value of `--a.b VALUE` stays text if `a` is a dict of any
values (so `false` is true); a dict is passed on as Python prints it (`null` becomes the text None); the text null is
accepted by options that expect text; the text 1:0 is the number 60; the last of two equal keys wins; files are opened
in the locale's encoding. Only `Parser` is changed, not the other jsonargparse parsers of the process, with one
exception: `callbacks.X` and `datamodules.X` mean our classes, also where a user's module has that name.
"""

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import lru_cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from jsonargparse import (
    ArgumentError,
    _actions,
    _core,
    _parameter_resolvers,
    _signatures,
    _subcommands,
    _typehints,
    set_dumper,
    set_loader,
)
from jsonargparse._paths import Path
from jsonargparse._typehints import ActionTypeHint, accepts_any_value
from lightning.pytorch.cli import LightningArgumentParser

from lit_fa.config import yaml_reader as reading
from lit_fa.config.option_search import find_action_and_subcommand
from lit_fa.errors import UserError
from lit_fa.escaping import short
from lit_fa.import_paths import full
from lit_fa.import_paths import short as short_path
from lit_fa.outputs import write_text

MODE = "lit_fa"
PLAIN = "plain"  # the format of `Parser.plain`
_NULLS = ("null", "Null", "NULL", "None")
_SCALAR = re.compile(r"[\w./+][\w./+-]{0,200}")
_NO_NULL = "null is no value of this option; leave the option out for its default"


class Parser(LightningArgumentParser):
    """Lightning's parser with our YAML reader."""

    def __init__(self, *args: Any, **kwargs: Any):
        """As Lightning's."""
        super().__init__(*args, **{"parser_mode": MODE} | kwargs)

    def dump(self, config: Any, **options: Any) -> str:
        """The config as text. It is not validated again, which would take as long as parsing it."""
        options = {"skip_validation": True} | options
        if _dumping.get():  # options of a nested class: jsonargparse loads this text at once
            return super().dump(config, **options | {"format": PLAIN})
        token = _dumping.set(True)
        try:
            return super().dump(config, **options)
        finally:
            _dumping.reset(token)

    def plain(self, config: Any, **options: Any) -> dict[str, Any]:
        """What a loader would read from `dump`, without the text."""
        text: Any = self.dump(config, format=PLAIN, **options)
        return text.value

    def save(self, config: Any, path: Any, *args: Any, overwrite: bool = False, **options: Any) -> None:
        """Write the config as UTF-8; jsonargparse uses the encoding of the locale, which may be ASCII."""
        if args or not overwrite or options.get("multifile") or "://" in str(path):
            return super().save(config, path, *args, overwrite=overwrite, **options)
        options.pop("multifile", None)
        write_text(path, self.dump(config, **options))

    def forget_instantiators(self) -> None:
        """Drop what `add_instantiator` has added, which refers to the objects of one config."""
        self._instantiators = None

    def _check_value_key(self, action: Any, value: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        """Refuse null for an option with a default that does not accept null; jsonargparse would use the default."""
        if value is None and isinstance(action, ActionTypeHint) and not _takes_null(action):
            raise TypeError(f'Parser key "{key}":\n  {_NO_NULL}')
        return super()._check_value_key(action, value, key, *args, **kwargs)


class _FileText(str):
    """The content of a file, with the path as the user wrote it."""

    path = ""


class _PlainText(str):
    """Stands for the text of `value`."""

    value: Any = None


def _plain_text(data: Any) -> _PlainText:
    """The dumper of the format `PLAIN`."""
    text = _PlainText("a value without text")
    text.value = _plain(data)
    return text


def _plain(data: Any) -> Any:
    """What our loader reads from the text that our dumper writes of `data`."""
    if isinstance(data, dict):
        return {_plain(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    known = data is None or type(data) in (bool, int, float, str)
    return data if known else reading.parsed(reading.dump(data))


class _Word(str):
    """A word for an inner parser; the outer parser does not read it, because `type(word) is str` is false."""


def _load(text: str) -> Any:
    """The value of a file's content, or of a word."""
    if isinstance(text, _PlainText):
        return text.value
    if path := getattr(text, "path", ""):
        value = reading.load(text, path)
        _check_dotted(value, path)
        check_classes(value, f"{path}: ")
        return value
    try:
        value = _scalar(text) if _SCALAR.fullmatch(text) else reading.parsed(text)
        check_classes(value)
        return value
    except reading.KeyTwice as error:
        raise UserError(f"{text!r}: {error.problem}") from None
    except reading.Unbounded as error:
        raise UserError(f"{text[:60]!r}...: {error.problem}") from None


@lru_cache(maxsize=4096)
def _scalar(text: str) -> Any:
    """The value of a word that is not a list or a mapping; cached, because configs repeat class paths and names."""
    return reading.parsed(text)


def _check_dotted(config: Any, path: str) -> None:
    """Refuse `a.b: 1` beside `a: {b: 2}`."""
    for key in config if isinstance(config, dict) else ():
        node: Any = config
        parts = key.split(".") if isinstance(key, str) and "." in key else []
        for part in parts:
            node = node.get(part, _ABSENT) if isinstance(node, dict) else _ABSENT
        if parts and node is not _ABSENT:
            raise UserError(f"{path}: {key} is written twice, with dots and nested; keep one")


def check_classes(value: Any, where: str = "") -> None:
    """Refuse a class whose parts have other types, which jsonargparse would report as an error of another option.

    Raises:
        UserError: a `class_path` that is no text, `init_args` that is no mapping, or a key beside them.
    """
    if isinstance(value, Mapping) and "class_path" in value:
        name = value["class_path"]
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{where}class_path is {short(name)}: write the name of a class")
        if not isinstance(value.get("init_args", {}), Mapping):
            what = short(value["init_args"])
            raise UserError(f"{where}init_args of {name} is {what}: write its options as a mapping, or leave it out")
        if beside := [key for key in value if key not in _PARTS]:
            raise UserError(f"{where}{short(beside[0])} beside class_path {name}: write the options under init_args")
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        check_classes(inner, where)


def _leaf(text: str) -> Any:
    """The value of text given for a number or a switch; jsonargparse would read 1:0 as sixty."""
    return _scalar(text)


def _read_text(path: Path) -> str:
    if path._std_io or path.is_url or path.is_fsspec:
        return _original_read(path)
    text = _FileText(reading.text_of(str(path.absolute)))
    text.path = str(path.relative)
    return text


def _called(action: ActionTypeHint, *args: Any, **kwargs: Any) -> Any:
    """jsonargparse's handling of a word of the command line, after our reader has read it."""
    if not args or not isinstance(args[0], Parser) or not isinstance(args[2], str):
        return _original_call(action, *args, **kwargs)
    parser, config, text, option = args
    base = action.get_option_string_base(option)
    if base is None:
        if text in _NULLS and _wants_text(action._typehint):
            raise TypeError(f'Parser key "{action.dest}":\n  {_NO_NULL}')
        return _original_call(action, *args)
    key = option.removeprefix(f"{base}.")
    if (kind := _mapping(action._typehint)) is not None:
        value = reading.load(text) if kind else text
        merged = _merged(config.get(action.dest), key.split(".") if kind else [key], value)
        return _original_call(action, parser, config, merged, base)
    inner = key.removeprefix("init_args.")
    return _original_call(action, parser, config, _Word(text) if "." in inner else text, option)


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _wants_text(hint: Any) -> bool:
    """Whether the type accepts text and not null."""
    members = _members(hint)
    return str in members and type(None) not in members and not any(map(accepts_any_value, members))


def _takes_null(action: ActionTypeHint) -> bool:
    """Whether the option accepts null, or has no default."""
    members = _members(action._typehint)
    return action.default is None or type(None) in members or any(map(accepts_any_value, members))


def _mapping(hint: Any) -> bool | None:
    """Whether a mapping type accepts any values; None if the type is not a mapping."""
    for member in _members(hint):
        origin = get_origin(member) or member
        if isinstance(origin, type) and issubclass(origin, Mapping):
            values = get_args(member)[1:]
            return not values or accepts_any_value(values[0])
    return None


def _merged(before: Any, path: list[str], value: Any) -> dict[str, Any]:
    """`before` with one entry replaced."""
    first, *rest = path
    entries = dict(before) if isinstance(before, Mapping) else {}
    return entries | {first: _merged(entries.get(first), rest, value) if rest else value}


def _refused(subtypes: Any, value: Any, errors: list[Exception]) -> None:
    """The error of a union type, with the class names of exceptions that have no message."""
    _original_refused(subtypes, value, [_said(error) for error in errors])


def _said(error: Exception) -> Exception:
    if str(error) and isinstance(error, ValueError | TypeError | RuntimeError | ArgumentError | ImportError):
        return error
    named = ValueError(f"{type(error).__name__}{f': {error}' if str(error) else ' without a message'}")
    named.__cause__ = error
    return named


def _sorted_members(members: Any, *context: Any) -> list[Any]:
    """The types of a union as they are tried: `int` before `float`, which would turn 1 (one batch) into 1.0 (all).

    The order of an annotation is no safe guide: `typing` caches unions, and `Optional[Union[int, float]]` may return
    the `Optional[Union[float, int]]` that another package has built before.
    """
    ordered = list(_original_sort(members, *context))
    if int in ordered and float in ordered and ordered.index(float) < ordered.index(int):
        ordered.remove(int)
        ordered.insert(ordered.index(float), int)
    return ordered


def _imported(name: Any, *args: Any, **kwargs: Any) -> Any:
    """The object that a name in a config means."""
    return _original_import(full(name) if isinstance(name, str) else name, *args, **kwargs)


def _path_of(value: Any) -> str | None:
    """The name of a class in configs, from which ids are made."""
    path = _original_path(value)
    return None if path is None else short_path(path)


def _replaced(owner: Any, name: str, function: Callable[..., Any]) -> Any:
    """Replace a function of a module or class; returns the one before."""
    before = getattr(owner, name)
    setattr(owner, name, function)
    return before


_ABSENT = object()
_PARTS = ("class_path", "init_args", "dict_kwargs")  # of a class in a config; the last is jsonargparse's
_dumping: ContextVar[bool] = ContextVar("dumping", default=False)  # whether `Parser.dump` is running
_original_sort = _replaced(_typehints, "sort_subtypes_for_union", _sorted_members)
_original_refused = _replaced(_typehints, "raise_union_unexpected_value", _refused)
_replaced(_typehints, "basic_json_or_yaml_load", _leaf)
_original_call = _replaced(ActionTypeHint, "__call__", _called)
_original_read = _replaced(Path, "read_text", _read_text)
_original_search = _replaced(_subcommands, "find_action_and_subcommand", find_action_and_subcommand)
_original_path = _replaced(_typehints, "get_import_path", _path_of)
for _module in (_actions, _parameter_resolvers, _signatures):
    _replaced(_module, "get_import_path", _path_of)
_original_import = _replaced(_typehints, "import_object", _imported)
_replaced(_actions, "import_object", _imported)
_replaced(_core, "find_action_and_subcommand", find_action_and_subcommand)
set_loader(MODE, _load, (yaml.YAMLError,))
set_dumper(MODE, reading.dump)
set_dumper(PLAIN, _plain_text)
