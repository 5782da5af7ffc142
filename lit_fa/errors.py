"""The error class for input that the user can correct, and the texts of such errors."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


class UserError(ValueError):
    """Wrong input. The message is one line that names the remedy; the command line exits with code 2.

    The attribute `user_error`, on an exception class of any package, tells the command line to print the message
    without a traceback.

    Args:
        message: a line break in it, as of a name that it quotes, becomes a space.
    """

    user_error = True

    def __init__(self, message: object = ""):
        """See the class."""
        super().__init__(" ".join(str(message).splitlines()))


class RanksNeeded(Exception):  # a demand, no error
    """Raised in a worker, before anything is done, by a run that would start ranks: it needs a process of its own."""


def nearest(name: str, valid: Collection[str], *, most: int = 5) -> str:
    """The end of an error message: the valid names most similar to `name` or, if none is similar, the first ones.

    >>> nearest("lenett", ["lenet", "mlp"])
    'nearest: lenet'
    """
    close = get_close_matches(str(name), valid, n=most, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"valid: {', '.join(sorted(valid)[:20])}"


def one_line(error: BaseException, *, most: int = 300) -> str:
    """The text of an error in one line of at most `most` characters, or its type if the text is empty."""
    text = " ".join(str(error).split())[:most]
    return text if text not in ("", "None") else type(error).__name__


def not_one_of(name: str, valid: Sequence[str], value: object, others: Sequence[str] = ()) -> str:
    """The sentence that an option has none of its valid values; `others`: kinds of values that it takes besides.

    >>> not_one_of("head", ["softmax", "none"], "sofmax")
    "head is one of softmax, none, not 'sofmax'; nearest: softmax"
    """
    close = get_close_matches(str(value), valid, n=1, cutoff=0.5)
    return f"{name} is one of {', '.join([*valid, *others])}, not {value!r}" + (
        f"; nearest: {close[0]}" if close else ""
    )


def check_literals(kind: type, values: Mapping[str, Any]) -> None:
    """Check the options of a constructor against its `Literal` annotations.

    Args:
        kind: the class whose `__init__` is annotated.
        values: name to value: the constructor's `locals()`, or the fields of a dataclass.

    Raises:
        UserError: a value that its `Literal` does not have, with the nearest that it has.
    """
    signature = inspect.signature(kind.__init__)  # type: ignore[misc]  # of this class itself
    for name, parameter in signature.parameters.items():
        valid, rest = literals(parameter.annotation)
        value = values.get(name)
        if valid and name in values and value not in valid and (isinstance(value, str) or not rest):
            raise UserError(not_one_of(name, valid, value, [_WORDS[r] for r in rest if r in _WORDS]))


def literals(annotation: Any) -> tuple[list[Any], list[Any]]:
    """The values of the `Literal` in an annotation, and the origins of the other members of its union.

    >>> literals(Literal["a", "b"] | None)
    (['a', 'b'], [<class 'NoneType'>])
    """
    union = get_origin(annotation) in (Union, UnionType)
    members = get_args(annotation) if union else (annotation,)
    valid = [value for member in members if get_origin(member) is Literal for value in get_args(member)]
    return valid, [get_origin(member) or member for member in members if get_origin(member) is not Literal]


_WORDS = {list: "a list", float: "a number", NoneType: "null"}
