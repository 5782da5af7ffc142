"""The options of a class's constructor, and the class of its bases whose docstring describes each of them."""

import inspect
import re
from inspect import Parameter

OURS = ("lit_fa",)


def ours(kind: type) -> bool:
    """Whether a class is of this project."""
    return kind.__module__.partition(".")[0] in OURS


def accepted(kind: type) -> list[str]:
    """The options of the constructor, with those that it passes on to a base class of ours."""
    names: list[str] = []
    for base in kind.__mro__:
        made = vars(base).get("__init__") or vars(base).get("__new__")
        if made is not None:
            parameters = [*inspect.signature(made).parameters.values()][1:] if ours(base) else []
            names += plain(parameters)
            if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
                break
    return [*dict.fromkeys(names)]


def plain(parameters: list[Parameter]) -> list[str]:
    """The names, without those of `*args` and `**options`."""
    return [p.name for p in parameters if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]


def describer(kind: type, option: str) -> type | None:
    """The nearest class, from `kind` upwards, whose own docstring names an option of `kind`."""
    return next((base for base in kind.__mro__ if ours(base) and names(own_text(base), option)), None)


def inherited(kind: type) -> dict[type, list[str]]:
    """Base class to the options of `kind` that only its docstring describes."""
    found: dict[type, list[str]] = {}
    for option in accepted(kind):
        base = describer(kind, option)
        if base not in (None, kind):
            found.setdefault(base, []).append(option)
    return found


def own_text(kind: type) -> str:
    """The docstrings of a class itself and of its own constructor."""
    parts = (kind.__doc__, getattr(vars(kind).get("__init__"), "__doc__", None))
    return "\n".join(inspect.cleandoc(part) for part in parts if part)


def names(text: str, parameter: str) -> bool:
    """Whether a docstring names a parameter: as an entry, in backticks, or in front of a shape or a colon.

    >>> names("Args:\\n    a, b: (n, c).", "b"), names("The cosine of a vector.", "a"), names("Rows of x (n, c).", "x")
    (True, False, True)
    """
    name = re.escape(parameter)
    entry = rf"^\s*(?:[*\w]+, )*\**{name}(?:, [*\w]+)*:"
    code = rf"`[^`\n]*(?<![\w.]){name}(?!\w)[^`\n]*`"
    return re.search(rf"{entry}|{code}|(?<!\w){name}(?: \(|:|\[)", text, re.MULTILINE) is not None
