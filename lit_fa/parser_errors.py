"""What a parser of nested types says, as one line that a user can act on; names are checked before it is asked."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import callbacks
import datamodules
import lit_fa.federated
import lit_fa.modules
import lit_fa.rules
from lit_fa.errors import UserError, nearest
from lit_fa.foreign_errors import told
from lit_fa.modules.ranks import lost_rank

T = TypeVar("T")

# where a class named in YAML may live, and what a user calls such a thing
ROOMS = {"rule": lit_fa.rules, "data": datamodules, "model": lit_fa.modules, "callbacks": callbacks}
ROOMS |= dict.fromkeys(("algorithm", "local_optimizer", "local_schedule"), lit_fa.federated)


def check_names(config: dict) -> None:
    """Refuse a dataset, model or rule that does not exist, with the nearest that do."""
    model = config.get("model") or {}
    chosen = {"data": config.get("data"), "model": model, "rule": (model.get("init_args") or {}).get("rule")}
    for kind, value in chosen.items():
        name = value.get("class_path") if isinstance(value, dict) else value
        if isinstance(name, str):
            _check_class(kind, name)


def _check_class(kind: str, name: str) -> None:
    room = ROOMS[kind]
    module, _, short = name.rpartition(".")
    if hasattr(room, short) and module in ("", room.__name__):
        return
    try:
        if module and hasattr(import_module(module), short):
            return
    except ImportError:
        pass
    raise UserError(f"unknown {kind} '{name}'; {nearest(short, [*room.__all__])} (in {room.__name__})")


def guarded(run: Callable[[], T]) -> T:
    """What `run` returns.

    A parser's many lines become one that a user can act on; a user error inside keeps its own sentence.
    """
    try:
        return run()
    except Exception as error:
        if getattr(error, "user_error", False):
            raise
        if isinstance(error, RuntimeError) and (lost := lost_rank(error)):
            raise lost from error
        if isinstance(error, ArgumentError) or (isinstance(error, ValueError) and "Does not validate" in str(error)):
            raise UserError(_readable(str(error))) from error
        if line := of_the_trainer(error) or told(error):
            raise UserError(line) from error
        raise


def of_the_trainer(error: Exception) -> str | None:
    """What Lightning says of an option or a callback, in one line; None for an error that is none of its own."""
    said = " ".join(str(error).split())
    ours = isinstance(error, MisconfigurationException) or said.startswith(_SAID_BY_LIGHTNING)
    return said if ours else None


def _readable(text: str) -> str:
    """The sentences in a parser's message that say what is wrong, without the tree of types around them."""
    keys = _KEY.findall(text)
    key = keys[-1] if keys else ""
    owners = re.findall(r"Problem with given class_path '([\w.]+)'", text)
    if (wrong := re.search(r"Option '([\w.]+)' is not accepted", text)) and owners:
        return f"{owners[-1]} has no option '{wrong[1]}'; {nearest(wrong[1], _options(owners[-1]))}"
    if wrong := re.search(r"Problem with given class_path '([\w.]+)':\s*\n\s*\n", text):
        return f"{wrong[1]}: its constructor fails without a message; --debug shows where"
    if wrong := re.search(r"Subcommand '\w+' does not accept option '([\w.]+)'", text):
        return f"there is no option '{wrong[1]}' (lit-fa fit --help lists them)"
    if (wrong := re.search(r"(?:dot import path string: |has no attribute ')([\w.]+)", text)) and key not in _NUMBERS:
        if key.endswith("_fn"):
            return f"{key}: no function '{wrong[1]}' can be imported: write the module before its name"
        return f"no {key} is called '{wrong[1]}'; {nearest(wrong[1].rpartition('.')[2], [*dict.fromkeys(_names(key))])}"
    lines = [_KEY.sub("", line.strip().removeprefix("- ")).strip(' :"') for line in text.splitlines()]
    said = dict.fromkeys(line for line in lines if line and not line.startswith(_SCAFFOLD))
    types = [line for line in said if line.startswith(("Expected a <", "Expected a typing", "Expected a dot import"))]
    told = [line for line in said if line not in types] or [_expected(types)]
    value = next((line for line in reversed(lines) if line.startswith("Given value: ")), "")
    value = value.removeprefix("Given value: ") or next(iter(_GOT.findall("\n".join(types))), "")
    given = f" (given: {value})" if value and len(value) < 60 and not _INTERNAL.search(value) else ""
    sentence = _CLASS.sub(r"\1", f"{key}: {'; '.join(told)}{given}".removeprefix(": "))
    return sentence[:600]


def _expected(types: list[str]) -> str:
    """`expected a whole number or null`, from the parser's lines about types."""
    kinds = []
    for line in types:
        if line.startswith("Expected a dot"):
            continue
        kind = _GOT.sub("", line).removeprefix("Expected a ").rstrip(". ")
        name = _CLASS.sub(r"\1", kind).removeprefix("typing.")
        if choices := re.match(r"Literal\[(.*)\]$", name):
            name = f"one of {choices[1]}"
        kinds.append(_TYPES.get(name, name))
    return f"expected {' or '.join(dict.fromkeys(kinds))}" if kinds else "not a value that this option takes"


def _options(path: str) -> list[str]:
    """The keyword options of a class, inherited ones included, as the parser resolves them."""
    module, _, name = path.rpartition(".")
    parser = LightningArgumentParser()
    parser.add_class_arguments(getattr(import_module(module), name), as_group=False)
    return [key for key in vars(parser.get_defaults()) if not key.startswith("_")]


def _names(key: str) -> list[str]:
    room = ROOMS.get(key.rpartition(".")[2])
    return [
        name for r in ([room] if room else ROOMS.values()) for name in r.__all__ if isinstance(getattr(r, name), type)
    ]


# beginnings of what Lightning says by other classes than its own
_SAID_BY_LIGHTNING = ("Early stopping conditioned on metric", "Requirement '", "`Trainer(", "The strategy `")
_KEY = re.compile(r'Parser key "([^"]*)"(?: element \d+)?:?')
_NUMBERS = ("lr",)  # options whose number may also be an object
_GOT = re.compile(r"\. Got value: (.*)$", re.MULTILINE)
_CLASS = re.compile(r"<class '([\w.]+)'>")
_INTERNAL = re.compile(r"\b(?:Namespace|NestedArg)\(")
_SCAFFOLD = (
    *("Does not validate", "Subtypes:", "Errors", "Given value", "Problem with given class_path"),
    *("Type typing.", "Type collections.", "Expected a path but"),
)
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "dict": "a mapping",
    "list": "a list",
    "tuple": "a list",
    "collections.abc.Sequence": "a list",
    "collections.abc.Iterable": "a list",
}
