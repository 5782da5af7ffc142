"""One-line errors in place of the parser's messages about nested types; class names are checked before parsing."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import torch
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import loggers
from lightning.pytorch.cli import LightningArgumentParser

import lit_fa.federated
import lit_fa.modules
import lit_fa.rules
from lit_fa import callbacks, datamodules
from lit_fa.config.own_classes import OURS, misspelt, wrong_name
from lit_fa.errors import UserError, nearest, not_one_of
from lit_fa.foreign_errors import NO_MEMORY, TOO_LARGE, known_message
from lit_fa.import_paths import full
from lit_fa.import_paths import short as short_path
from lit_fa.modules.distributed import lost_rank

T = TypeVar("T")

# kind of object in a config to the package of its classes
ROOMS = {"rule": lit_fa.rules, "data": datamodules, "model": lit_fa.modules, "callbacks": callbacks}
ROOMS |= dict.fromkeys(("algorithm", "local_optimizer", "local_schedule"), lit_fa.federated)


def check_names(config: dict[str, Any]) -> None:
    """Refuse an unknown data set, model or rule; the error names the nearest known ones."""
    model = config.get("model") or {}
    model = model if isinstance(model, dict) else {"class_path": model}
    chosen = {"data": config.get("data"), "model": model, "rule": (model.get("init_args") or {}).get("rule")}
    for kind, value in chosen.items():
        name = value.get("class_path") if isinstance(value, dict) else value
        if isinstance(name, str):
            _check_class(kind, name)


def _check_class(kind: str, name: str) -> None:
    room = ROOMS[kind]
    module, _, short = full(name).rpartition(".")
    if hasattr(room, short) and module in ("", room.__name__):
        return
    try:
        if module and hasattr(import_module(module), short):
            return
    except ImportError:
        pass
    if module and module.partition(".")[0] not in OURS:
        raise UserError(misspelt(name))
    raise UserError(f"unknown {kind} '{name}'; {nearest(short, [*room.__all__])} (in {short_path(room.__name__)})")


def guarded(run: Callable[[], T]) -> T:
    """The result of `run`; errors of the parser and of Lightning become one-line `UserError`s.

    Raises:
        UserError: with the original message if it already was a user error.
    """
    try:
        return run()
    except Exception as error:
        if getattr(error, "user_error", False):
            raise
        if str(error).startswith("Call to compute_fn") and isinstance(error.__cause__, UserError):
            raise error.__cause__ from None  # a link from the data; the parser's message shows the whole datamodule
        if isinstance(error, RuntimeError) and (lost := lost_rank(error)):
            raise lost from error
        if isinstance(error, ArgumentError) or (isinstance(error, ValueError) and "Does not validate" in str(error)):
            raise UserError(_readable(str(error))) from error
        if line := of_the_trainer(error) or known_message(error):
            raise UserError(line) from error
        raise


def of_the_trainer(error: Exception) -> str | None:
    """Lightning's message about an option or a callback, in one line; None for other errors."""
    message = " ".join(str(error).split())
    ours = isinstance(error, MisconfigurationException) or message.startswith(_BEGINNINGS)
    return message if ours else None


def _readable(text: str) -> str:
    """The sentences of a parser's message that describe the problem, without the tree of types."""
    keys = _KEY.findall(text)
    key = keys[-1] if keys else ""
    if line := wrong_name(text, key):
        return line
    owners = _OWNER.findall(text)
    if (wrong := re.search(r"Option '([\w.]+)' is not accepted", text)) and owners:
        return f"{owners[-1]} has no option '{wrong[1]}'; {nearest(wrong[1], _options(owners[-1]))}"
    if line := _not_in_literal(text):
        return line
    for pattern, line in _WHOLE:
        if wrong := re.search(pattern, text):
            return wrong.expand(line)
    text = _CALLABLE.sub("", _NAMESPACE.sub("", text))
    if owners or "NestedArg" in text:  # the error is in the options of a class, not in the class being null
        text = "".join(text.rpartition("- Expected a <class 'NoneType'>")[::2])
    if key in _CLASSES and (wrong := re.search(_DOTTED, text)):
        if key.endswith(("_fn", "_lambda")):
            return f"{key}: no function '{wrong[1]}' can be imported: write the module before its name"
        return f"no {key} is called '{wrong[1]}'; {nearest(wrong[1].rpartition('.')[2], [*dict.fromkeys(_names(key))])}"
    lines = [_KEY.sub("", line.strip().removeprefix("- ")).strip(' :"') for line in text.splitlines()]
    sentences = dict.fromkeys(line for line in lines if line and not line.startswith(_SCAFFOLD))
    types = [line for line in sentences if line.startswith(_OF_A_TYPE)]
    shown = [
        line for line in sentences if line not in types and (len(sentences) == 1 or not line.startswith(_NO_SUBCLASS))
    ]
    given = [value for line in lines if (value := line.partition("Given value: ")[2])]
    given += _GOT.findall(text)
    value = next((v for v in given if len(v) < 60 and not _INTERNAL.search(v)), "")
    shown = [_GOT.sub("", line) for line in shown] or [_expected(types, key)]
    suffix = f" (given: {value})" if value else ""
    return _CLASS.sub(r"\1", f"{key}: {'; '.join(shown)}{suffix}".removeprefix(": "))[:600]


def _not_in_literal(text: str) -> str | None:
    """The sentence of the innermost option whose `Literal` lacks the given value; None if that is not what is wrong."""
    key, _, inner = text.rpartition('Parser key "')[2].partition('"')
    message, *values = re.split(r"(?:Got|Given) value: ", inner)
    choices = [choice for literal in _LITERAL.findall(message) for choice in re.findall(r"'([^']*)'", literal)]
    if not choices or not values:
        return None
    others = [
        _TYPES[kind]
        for kind in _CLASS.findall(message.partition("Errors:")[2])
        if kind in ("float", "list", "NoneType")
    ]
    value = values[0].splitlines()[0]
    return not_one_of(key.rpartition(".")[2], choices, value, others)


def _expected(types: list[str], key: str) -> str:
    """`expected a whole number or null`, from the parser's lines about types."""
    if key in ("optimizer", "scheduler"):
        return f"expected a class of {_MODULES[key].__name__}, such as {_names(key)[0]}, by class_path and init_args"
    kinds = []
    for line in types:
        if line.startswith("Expected a dot"):
            continue
        kind = _GOT.sub("", line).removeprefix("Expected a ").removeprefix("Expected ").rstrip(". ")
        name = _CLASS.sub(r"\1", kind).removeprefix("typing.")
        kinds.append(_TYPES.get(name, name))
    if kinds == ["null"]:
        return "expected a class, by class_path and init_args, or null"
    return f"expected {' or '.join(dict.fromkeys(kinds))}" if kinds else "not a value that this option takes"


def _options(path: str) -> list[str]:
    """The keyword options of a class, inherited ones included, as the parser resolves them."""
    module, _, name = full(path).rpartition(".")
    parser = LightningArgumentParser()
    parser.add_class_arguments(getattr(import_module(module), name), as_group=False)
    return [key for key in vars(parser.get_defaults()) if not key.startswith("_")]


def _names(key: str) -> list[str]:
    """Names of the classes that an option accepts."""
    if module := _MODULES.get(key):
        kinds = {name: kind for name, kind in vars(module).items() if isinstance(kind, type) and name[0] != "_"}
        return [name for name, kind in kinds.items() if hasattr(kind, _METHODS[key]) and name not in _ABSTRACT]
    room = ROOMS.get(key.rpartition(".")[2])
    return [
        name for r in ([room] if room else ROOMS.values()) for name in r.__all__ if isinstance(getattr(r, name), type)
    ]


# options that name a class of another package: its module, and a method of the class
_MODULES = {"optimizer": torch.optim, "scheduler": torch.optim.lr_scheduler, "trainer.logger": loggers}
_METHODS = {"optimizer": "step", "scheduler": "step", "trainer.logger": "log_metrics"}
_ABSTRACT = ("Optimizer", "LRScheduler", "Logger", "LBFGS", "SparseAdam")
_CLASSES = (*_MODULES, *ROOMS, "trainer.callbacks", "trainer.plugins", "batch_size_fn", "lr_lambda")
_OWNER = re.compile(r"(?:Problem with given class_path |Got value: Namespace\(class_path=)'([\w.]+)'")
_NAMESPACE = re.compile(r"\.+ Got value: Namespace\(.*")
_CALLABLE = re.compile(r"Type (?:typing|collections)\.\S.*? expects a function or a callable class:\s*")
_DOTTED = r"(?:dot import path string: |has no attribute ')([\w.]+)"
# patterns of messages that are one sentence already
_WHOLE = (
    (NO_MEMORY, TOO_LARGE),
    (
        r"'(\w+)' object has no attribute '(num_classes|image_shape)'",
        r"\1 has no \2: set it in the class, or in its inspect() (docs/guides/own_code.md)",
    ),
    (
        r"Problem with given class_path '([\w.]+)':\s*\n\s*\n",
        r"\1: its constructor fails without a message; --debug shows where",
    ),
    (
        r"Subcommand '\w+' does not accept option '([\w.]+)'",
        r"there is no option '\1' (lit-fa fit --help lists them)",
    ),
    (r"Cannot instantiate typing", "a scheduler without a class: write its class_path, or leave it out"),
    (r"^Unexpected config", "--config: the file holds no mapping: write trainer, model and data into it"),
    (r"File does not exist: '(.*)'", r"--config: there is no file \1: give the path of a YAML file"),
    (r"(?:File is not readable|Path is not a file): '(.*)'", r"--config: \1 cannot be read: give a YAML file"),
)
# beginnings of Lightning's messages in exceptions of other classes
_BEGINNINGS = ("Early stopping conditioned on metric", "Requirement '", "`Trainer(", "The strategy `")
_KEY = re.compile(r'Parser key "([^"]*)"(?: element \d+)?:?')
_GOT = re.compile(r"\. Got value: (.*)$", re.MULTILINE)
_LITERAL = re.compile(r"Expected a typing\.Literal\[(.*?)\]")
_CLASS = re.compile(r"<class '([\w.]+)'>")
_INTERNAL = re.compile(r"\b(?:Namespace|NestedArg)\(")
_SCAFFOLD = (
    *("Does not validate", "Subtypes:", "Errors", "Given value", "Problem with given class_path"),
    *("Type typing.", "Type collections.", "Expected a path but", "Subclass types expect", "a class path (str)"),
    *("a dict with", "a dict without"),
)
_NO_SUBCLASS = ("Not a valid subclass", "Import path does not correspond to a subclass")
_OF_A_TYPE = (
    "Expected '",
    "Expected a <",
    "Expected a typing",
    "Expected a dot import",
    "Expected float",
    "Expected list",
)
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "dict": "a mapping",
    "list": "a list",
    "dict[str, float]": "a mapping of names to numbers",
    "tuple": "a list, as [0.9, 0.99]",
    "collections.abc.Sequence": "a list",
    "collections.abc.Iterable": "a list",
}
