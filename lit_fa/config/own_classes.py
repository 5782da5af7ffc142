"""Classes of the user's own, named by import path: what is wrong with a name, and what a datamodule must have."""

import inspect
import os
import pkgutil
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from typing import Any

import timm

from lit_fa.errors import UserError, nearest, one_line
from lit_fa.modules import EvaluatedClassifier
from lit_fa.networks.text import PREFIX

OURS = ("lit_fa", "datamodules", "callbacks")
_FAILED = re.compile(r"Problem with given class_path '([\w.]+)':\s*\n\s*(?:module '|No module named)")
_OTHER_KIND = (
    re.compile(r"Import path ([\w.]+) does not correspond to a subclass of (\w+)"),
    re.compile(r"does not correspond to a subclass of (?=(?:.|\n)*?Given value: ([\w.]+))(\w+)"),
)
_BASES = {"VisionDataModule": "datamodules.VisionDataModule, whose read(split) returns the images"}


def wrong_name(text: str, option: str) -> str | None:
    """The line for a parser's message about a class of the user's own; None if it is about something else."""
    for path in reversed(_FAILED.findall(text)):
        if "." in path and path.partition(".")[0] not in OURS:
            return misspelt(path)
    other = next((found for pattern in _OTHER_KIND if (found := pattern.search(text))), None)
    if other and "." in other[1] and other[1].partition(".")[0] not in OURS:
        base = _BASES.get(other[2], other[2])
        return f"{option}: {other[1]} is no {other[2]}: derive it from {base}, or name another class"
    return None


def misspelt(path: str) -> str:
    """Why there is no class at an import path, with the nearest names of the module that it names."""
    module, _, name = path.rpartition(".")
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        here = ".".join(parts[:depth])
        try:
            found = import_module(here)
        except ModuleNotFoundError as error:
            if error.name != here:
                return f"{here} cannot be imported: {one_line(error)}; install it, or correct the import"
            return _no_module(parts[:depth])
        except Exception as error:
            return f"{here} cannot be imported: {type(error).__name__}: {one_line(error)}"
    classes = [n for n, value in vars(found).items() if isinstance(value, type) and value.__module__ == found.__name__]
    public = classes or [n for n in vars(found) if not n.startswith("_")]
    return f"{module} has no {name}; {nearest(name, public)}" if public else f"{module} has no {name}: it is empty"


def _no_module(parts: list[str]) -> str:
    *parents, name = parts
    places = list(import_module(".".join(parents)).__path__) if parents else [os.getcwd()]
    names = sorted(module.name for module in pkgutil.iter_modules(places))
    where = f"in {'.'.join(parents)}" if parents else f"in {os.getcwd()} or among the installed packages"
    return f"there is no module {name} {where}" + (f"; {nearest(name, names)}" if names else "")


def check_network(config: Mapping[str, Any]) -> None:
    """Refuse the import path of a network that is written as the name of one of timm's.

    Raises:
        UserError: says how it is written.
    """
    name = ((config.get("model") or {}).get("init_args") or {}).get("network")
    if not isinstance(name, str) or name.startswith(PREFIX) or "." not in name:
        return
    if not timm.is_model(name) and not timm.is_model(name.partition(".")[0]):
        raise UserError(f"network {name}: a class of your own is written network: {{class_path: {name}}}")


def wanted(model: str) -> frozenset[str]:
    """The options of a model that come from the data; a module of the user's own may have none of them."""
    module, _, name = model.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return frozenset()  # the parser says what is wrong with it
    if issubclass(kind, EvaluatedClassifier):
        return frozenset(_GIVEN)
    return frozenset(_GIVEN) & frozenset(inspect.signature(kind).parameters)


def of_data(option: str, data: Any) -> Any:
    """The value of a model's option from the data; None if the model of `needed` has no such option.

    Raises:
        UserError: the datamodule does not have it.
    """
    return _GIVEN[option](data) if option in needed.get() else None


def classes_of(data: Any) -> int:
    """The number of classes of a datamodule.

    Raises:
        UserError: it has none.
    """
    number = getattr(data, "num_classes", None)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        what = "the number of classes (1: regression)"
        raise UserError(_lacking(data, "num_classes", number, f"{what}, a whole number from 1 on"))
    return number


def sample_shape_of(data: Any) -> tuple[int, ...]:
    """The shape of one sample as it is in a batch: `sample_shape`, else `image_shape`.

    Raises:
        UserError: it has neither.
    """
    return _shape(data, "sample_shape", "image_shape", "the shape of one sample as it is in a batch, such as (8,)")


def image_shape_of(data: Any) -> tuple[int, ...]:
    """The shape of one image before it is flattened: `image_shape`, else `sample_shape`.

    Raises:
        UserError: it has neither.
    """
    return _shape(data, "image_shape", "sample_shape", "channels, height and width, such as (1, 28, 28)")


def _shape(data: Any, name: str, other: str, what: str) -> tuple[int, ...]:
    chosen = name if getattr(data, name, None) is not None else other
    value: Any = getattr(data, chosen, None)
    try:
        shape = tuple(int(size) for size in value)
    except (TypeError, ValueError):
        shape = ()
    if not shape or min(shape) < 1:
        derived = value is None and hasattr(type(data), name)  # a property, of what the class lacks
        raise UserError(_lacking(data, other if derived else name if value is None else chosen, value, what))
    return shape


def _lacking(data: Any, name: str, value: object, what: str) -> str:
    kind = f"{type(data).__module__}.{type(data).__qualname__}"
    found = f"has no {name}" if value is None else f"has {name} {value!r}"
    return f"{kind} {found}: set it to {what} (docs/guides/own_code.md)"


# option of the model to what gives it, from the data
_GIVEN: dict[str, Callable[[Any], Any]] = {
    "input_shape": sample_shape_of,
    "num_classes": classes_of,
    "image_shape": image_shape_of,
}
LINKS = {option: partial(of_data, option) for option in _GIVEN}
needed: ContextVar[frozenset[str]] = ContextVar("needed", default=frozenset())  # options of the model being built
