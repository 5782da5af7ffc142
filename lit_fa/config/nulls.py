"""Nulls of a written config: one that is an option's default says nothing, one in the place of another default does.

layers: null    # FLFA's default is `official`: without this line the config would mean that
"""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import lightning as L

from lit_fa.described import imported
from lit_fa.errors import UserError


def without_default_nulls(config: dict[str, Any]) -> dict[str, Any]:
    """A config, defaults included, without the nulls that are defaults of the Trainer or of a class in it.

    Nulls at the top level go as well: there each is the default. Dictionaries that are values of options keep theirs.
    """
    kept = {key: _of(value) for key, value in config.items() if value is not None}
    if isinstance(trainer := kept.get("trainer"), dict):
        kept["trainer"] = _without(trainer, L.Trainer)
    return kept


def _of(value: Any) -> Any:
    if isinstance(value, list):
        return [_of(item) for item in value]
    if isinstance(value, dict) and isinstance(path := value.get("class_path"), str):
        options = value.get("init_args")
        return value | ({"init_args": _without(options, _named(path))} if isinstance(options, dict) else {})
    if isinstance(value, dict):
        return {key: _of(item) for key, item in value.items()}
    return value


def _without(options: Mapping[str, Any], made_by: Any) -> dict[str, Any]:
    defaults = _defaults(made_by)
    return {key: _of(value) for key, value in options.items() if value is not None or defaults.get(key) is not None}


def _named(path: str) -> Any:
    with suppress(UserError):  # a dictionary that only looks like a class keeps no null
        return imported(path)
    return None


def _defaults(made_by: Any) -> dict[str, Any]:
    """The defaults of a class, of its parents where it passes keywords on, or of a function."""
    sources: list[Any] = (
        [vars(kind).get("__init__") for kind in made_by.__mro__[::-1]] if inspect.isclass(made_by) else [made_by]
    )
    found: dict[str, Any] = {}
    for source in sources:
        with suppress(TypeError, ValueError):  # made in C, without a signature
            found |= {p.name: p.default for p in inspect.signature(source).parameters.values()}
    return found
