"""Descriptions of objects as plain data, which a checkpoint can store and from which the objects are created again.

Plain data are numbers, texts, lists, tuples and dictionaries, which torch's safe loader reads. An object is described
by `{class_path, init_args}`, a function or class by `{import_path}`, a partial by `{partial_path, init_args}`, and an
object that cannot be described, such as a network, by `{missing_type}`.
"""

import dataclasses
import importlib.util
import inspect
import math
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from lit_fa.errors import UserError
from lit_fa.import_paths import full, is_ours, short
from lit_fa.provenance import installed

MAY_BE_INFINITE = ("clip", "min_delta", "stopping_threshold", "divergence_threshold")
LARGEST = 2**63 - 1  # largest integer of torch and NumPy
PLAIN = (bool, int, float, str, type(None))


class Described:
    """Base class that stores the arguments of its constructor in `constructor`, as plain data, defaults included."""

    constructor: dict[str, Any]

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Describe the arguments before the constructor can change them.

        Raises:
            UserError: a number that is not finite, or too large for 64 bits.
        """
        new = super().__new__(cls)
        new.__dict__["constructor"] = of_call(cls, args, kwargs)
        if _known(path_of(cls)):
            check_numbers(new.constructor.get("init_args"), cls.__name__)
        return new


def check_numbers(plain: Any, where: str) -> None:
    """Refuse a number that is not finite, or too large for 64 bits, anywhere in plain data.

    The options of classes of other packages are not checked.

    Raises:
        UserError: such a number; the message names its option, after `where`.
    """
    if hasattr(plain, "items"):
        if not _known(plain.get("class_path")):
            plain = {key: value for key, value in plain.items() if key != "init_args"}
        for key, value in plain.items():
            check_numbers(value, f"{where}.{key}")
    elif isinstance(plain, list | tuple):
        for entry in plain:
            check_numbers(entry, where)
    elif isinstance(plain, float) and not math.isfinite(plain):
        if math.isnan(plain):
            raise UserError(f"{where} is not a number (nan): write a finite one")
        if where.rpartition(".")[2] not in MAY_BE_INFINITE:
            raise UserError(f"{where} is infinite: write a finite number")
    elif isinstance(plain, int) and abs(plain) > LARGEST:
        raise UserError(f"{where} is a number of {len(str(abs(plain)))} digits: write one below 2**63")


def _known(path: Any) -> bool:
    return not isinstance(path, str) or is_ours(path) or path.split(".")[0] in ("lightning", "torch")


def of_call(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """`{class_path, init_args}` of a call; empty if the arguments do not fit, which the constructor reports."""
    try:
        signature = inspect.signature(kind.__init__)  # type: ignore[misc]  # of this class itself
        bound = signature.bind(None, *args, **kwargs)
    except TypeError:
        return {}
    bound.apply_defaults()
    kinds = {name: p.kind for name, p in bound.signature.parameters.items()}
    given = {name: value for name, value in [*bound.arguments.items()][1:] if kinds[name] not in _VARIADIC}
    for name, value in bound.arguments.items():
        given |= value if kinds[name] is inspect.Parameter.VAR_KEYWORD else {}
    return {"class_path": path_of(kind), "init_args": {name: described(value) for name, value in given.items()}}


def described(value: object) -> Any:
    """`value` as plain data.

    >>> described((1, {"a": int}))
    (1, {'a': {'import_path': 'builtins.int'}})
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(described(entry) for entry in value)
    if isinstance(value, dict):
        return {str(key): described(entry) for key, entry in value.items()}
    if isinstance(value, Described) and value.constructor:
        return value.constructor
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"class_path": path_of(type(value)), "init_args": fields}
    if isinstance(value, partial):
        return _of_partial(value)
    if callable(value) and (path := path_of(value)):
        return {"import_path": path}
    bare = type(value).__init__ is object.__init__ and not getattr(value, "__dict__", None)
    return {"class_path": path_of(type(value)), "init_args": {}} if bare else {"missing_type": type(value).__name__}


def as_call(plain: Any) -> str:
    """Plain data as the call that makes it, classes without their modules.

    >>> as_call({"class_path": "lit_fa.rules.Pruning", "init_args": {"every": 2, "kind": {"import_path": "a.f"}}})
    'Pruning(every=2, kind=f)'
    """
    match plain:
        case {"class_path": path, "init_args": options}:
            return f"{_short(path)}({as_options(options)})"
        case {"partial_path": path, "init_args": options}:
            return f"partial({', '.join(part for part in (_short(path), as_options(options)) if part)})"
        case {"import_path": path}:
            return _short(path)
        case {"missing_type": name}:
            return f"<{name}>"
        case dict():
            return "{" + ", ".join(f"{key!r}: {as_call(value)}" for key, value in plain.items()) + "}"
        case list():
            return f"[{', '.join(map(as_call, plain))}]"
    return repr(plain)


def as_options(options: dict[str, Any]) -> str:
    """Arguments of a call by name: `rank=8, seed=0`."""
    return ", ".join(f"{name}={as_call(value)}" for name, value in options.items())


def _short(path: str) -> str:
    return path.rpartition(".")[2]


def construct(plain: Any) -> Any:
    """The object that `plain` describes.

    Raises:
        UserError: something that cannot be imported, or that has no description.
    """
    if isinstance(plain, (list, tuple)):
        return type(plain)(construct(entry) for entry in plain)
    if not isinstance(plain, dict):
        return plain
    match [*plain]:
        case ["import_path"]:
            return imported(_callable(plain["import_path"]))
        case ["missing_type"]:
            raise UserError(f"a {plain['missing_type']} is no plain data")
        case ["partial_path", "init_args"]:
            return partial(imported(_callable(plain["partial_path"])), **construct(plain["init_args"]))
        case ["class_path", "init_args"]:
            return _trusted(imported(plain["class_path"]))(**construct(plain["init_args"]))
    return {key: construct(entry) for key, entry in plain.items()}


def imported(path: str) -> Any:
    """The class or function with import path `path`.

    Only installed packages are imported, because anybody may have written the checkpoint.

    Raises:
        UserError: it cannot be imported, or its module is not installed and has not been imported yet.
    """
    module, _, name = full(path).rpartition(".")
    if not _is_installed(module):
        raise UserError(f"{path} is in no installed package: import {module} before the checkpoint is loaded")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path} cannot be imported here: install or import the package that defines it") from error


def path_of(value: Any) -> str | None:
    """The name of a class or function in configs; None if it has none (a lambda, an instance, a local class)."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not name or not name.isidentifier():
        return None
    return short(f"{module}.{name}")


def _of_partial(value: partial[Any]) -> dict[str, Any]:
    """The description of a partial; a partial of the parser calls the parser, and its last argument is the class."""
    args, target = [*value.args], value.func
    by_parser = str(getattr(target, "__module__", "")).partition(".")[0] in ("jsonargparse", "lightning")
    if by_parser and args and isinstance(args[-1], type):
        args, target = [], args[-1]
    if args or not (path := path_of(target)):
        return {"missing_type": "partial"}
    return {"partial_path": path, "init_args": described(value.keywords)}


def _trusted(kind: Any) -> type:
    """The class, if it belongs to this package or is derived from one of its classes; no others are created."""
    ours = isinstance(kind, type) and any(base.__module__.split(".")[0] == "lit_fa" for base in kind.__mro__)
    if not ours:
        raise UserError(f"{path_of(kind)} is no class of lit_fa nor derived from one: pass the object itself")
    return kind


def _callable(path: str) -> str:
    """The path of an optimiser or a schedule; functions of the standard library are refused."""
    if path.partition(".")[0] in sys.stdlib_module_names:
        raise UserError(f"{path} is no optimiser and no schedule: pass the object itself")
    return path


def _is_installed(module: str) -> bool:
    """Whether a module is already imported, ours, in the standard library, or in the folders of installed packages."""
    top = module.partition(".")[0]
    if module in sys.modules or is_ours(module) or top in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    places = [spec.origin or "", *(spec.submodule_search_locations or [])] if spec else []
    return spec is None or any(installed(Path(place)) for place in places if place)


_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
