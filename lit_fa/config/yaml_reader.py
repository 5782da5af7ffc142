"""Reads YAML: config files, tables, sweep files, words of the command line and values of a sweep.

    text        read as
    ----------  -------------------------------------------------------------------------------------------------
    1e-3, .5    a number, with or without a point (YAML 1.1 and W&B want one); 010 is ten, 0x10 sixteen
    yes, on     true, as in YAML 1.1: yes/no, on/off and true/false, in small, capital or leading capital letters
    null, ~     nothing; so is None, which W&B's agent writes for null
    2026-01-31  text: there are no dates
    1:30        text: there are no numbers to base 60
    (7, 7)      refused: there are no tuples, a list is written [7, 7]
    a: 1, a: 2  refused: a key is written once

Text with too many values (through anchors), an anchor that contains itself, and nesting deeper than `DEEPEST` are
refused before any value is built.

Text that looks like another value needs quotes. `load` reads the output of `dump` as the same value.
"""

import copy
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from lit_fa.errors import UserError

_TAG = "tag:yaml.org,2002:"
_TUPLE = "!tuple"
_LIST = "there are no tuples here; write a list: [7, 7]"
_RESOLVED = [
    (f"{_TAG}null", r"~|null|Null|NULL|None|", "~nN"),
    (f"{_TAG}bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    (f"{_TAG}int", r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
    (
        f"{_TAG}float",
        r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    (f"{_TAG}merge", r"<<", "<"),
    (_TUPLE, r"\([-+0-9.eE_, ()]*", "("),
]


DEEPEST = 50  # levels
_DEEP = f"nested more than {DEEPEST} levels deep; write it flatter"
_UNUSED = [f"{_TAG}{name}" for name in ("set", "omap", "pairs", "binary", "timestamp")]
LARGEST = 1_000_000  # characters of a text; also number of values, with aliases expanded


class Unbounded(yaml.MarkedYAMLError):
    """Nested too deep, too large, or infinite."""

    def __init__(self, problem: str, mark: Any):
        """`mark` is the place in the text, as for the base class."""
        super().__init__(None, None, problem, mark)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the rules of the table above."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    yaml_constructors = {
        tag: constructor for tag, constructor in yaml.SafeLoader.yaml_constructors.items() if tag not in _UNUSED
    }

    def __init__(self, stream: str):
        """Start at the top level."""
        super().__init__(stream)
        self.level = 0
        self.sizes: dict[int, int] = {}  # values that a node stands for, by the node's id

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One value, with checks of its depth and of its size with aliases expanded."""
        alias = self.check_event(yaml.AliasEvent)
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        if node is None:
            return None
        if alias and not isinstance(node, yaml.ScalarNode) and id(node) not in self.sizes:
            raise Unbounded("an anchor that contains itself", node.start_mark)
        if not alias:
            self.sizes[id(node)] = self._size(node)
        return node

    def fetch_flow_collection_start(self, kind: type) -> None:
        """Check the depth of brackets, which the scanner reads ahead."""
        if self.flow_level > DEEPEST:
            raise Unbounded(_DEEP, self.get_mark())
        super().fetch_flow_collection_start(kind)

    def get_event(self) -> yaml.Event:
        """The next event, with a check of its depth."""
        event = yaml.SafeLoader.get_event(self)
        if self.level > DEEPEST and isinstance(event, yaml.CollectionStartEvent):
            raise Unbounded(_DEEP, event.start_mark)
        return event

    def _size(self, node: yaml.Node) -> int:
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        size = 1 + sum(self.sizes[id(part)] for part in parts)
        if size > LARGEST:
            message = f"anchors make more than {LARGEST:,} values of it; write out what is meant"
            raise Unbounded(message, node.start_mark)
        return size


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader would read as another value."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value that occurs twice two times, without an alias."""
        return True


for _tag, _pattern, _first in _RESOLVED:
    for _kind in (_Loader, _Dumper):
        # the empty scalar is resolved by the letter ""
        _kind.add_implicit_resolver(
            _tag, re.compile(f"(?:{_pattern})\\Z"), [*_first, *([""] if "null" in _tag else [])]
        )


class KeyTwice(yaml.constructor.ConstructorError):
    """A mapping has a key twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    first: dict[Any, int] = {}
    for key, _ in node.value:
        if key.tag == f"{_TAG}merge" or not isinstance(key, yaml.ScalarNode):
            continue
        name, line = loader.construct_object(key), key.start_mark.line + 1
        if (type(name), name) in first:
            message = f"the key {key.value!r} is written twice (first on line {first[type(name), name]})"
            raise KeyTwice(None, None, message, key.start_mark)
        first[type(name), name] = line
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    digits = node.value.replace("_", "").lower()
    base = {"0b": 2, "0x": 16}.get(digits.lstrip("+-")[:2], 10)
    try:
        return int(digits, base)
    except ValueError:
        message = f"{node.value[:20]!r}... is no number of at most 4300 digits; put text in quotes"
        raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from None


def _no_tuple(loader: _Loader, node: yaml.Node) -> None:
    raise yaml.constructor.ConstructorError(None, None, _LIST, node.start_mark)


_Loader.add_constructor(f"{_TAG}map", _mapping)
_Loader.add_constructor(f"{_TAG}int", _integer)
_Loader.add_constructor(f"{_TAG}python/tuple", _no_tuple)
_Loader.add_constructor(_TUPLE, _no_tuple)


def parsed(text: str) -> Any:
    """The value of YAML text; the caller may change it.

    Raises:
        yaml.YAMLError: with the message of the library.
    """
    return copy.deepcopy(_parsed(text))


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """Cached, because tables share their base, and a command reads a table more than once."""
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"more than {LARGEST:,} characters; a config is shorter")
    try:
        return yaml.load(text, Loader=_Loader)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise yaml.YAMLError(f"a value does not fit its tag ({type(error).__name__}); leave tags out") from None


def load(text: str, where: str = "") -> Any:
    """The value of YAML text, with one-line errors.

    Args:
        text: a file's content, or a word.
        where: the file's name, for the error; without it the error shows the text.

    Raises:
        UserError: one line with file and line number.

    >>> [load(text) for text in ("1e-3", "false", "None", "[16, 0.1]", "{a: null}", "2026-01-31")]
    [0.001, False, None, [16, 0.1], {'a': None}, '2026-01-31']
    """
    try:
        return parsed(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        message = f"{error.context} {error.problem}" if str(error.problem).startswith("but ") else error.problem
        raise UserError(f"{f'{where}:{line}' if where else _short(text)}: not valid YAML: {message}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where or _short(text)}: not valid YAML: {str(error).splitlines()[0]}") from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def dump(data: Any, **layout: Any) -> str:
    """YAML that `load` reads as `data`; the order of keys is kept.

    >>> dump({"a": "1e-3", "b": 1e-3, "c": (7, None)}, default_flow_style=True)
    "{a: '1e-3', b: 0.001, c: [7, null]}\\n"
    """
    layout = {"sort_keys": False, "allow_unicode": True, "default_flow_style": False} | layout
    return yaml.dump(data, None, _Dumper, **layout)


def word(value: Any) -> str:
    """A value as one word of a command line, which is read as the same value; text is not changed.

    >>> [word(value) for value in (1e-05, True, None, "relu", {"a": None, "b": [16]})]
    ['1e-05', 'true', 'null', 'relu', '{a: null, b: [16]}']
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
        return repr(value)
    return dump(value, default_flow_style=True, width=float("inf")).removesuffix("...\n").rstrip("\n")


def text_of(path: Path | str) -> str:
    """The text of a UTF-8 file.

    Raises:
        UserError: the file does not exist, cannot be read, or is not text.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            return file.read(LARGEST + 1)  # `parsed` refuses a longer text; a device may have no end
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None


def read_yaml(path: Path | str) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: the file does not exist, is not text, or is not YAML; one line with file and line number.
    """
    return load(text_of(path), str(path))
