"""The error class of this package, for data and options that the user can correct."""

from collections.abc import Iterable
from difflib import get_close_matches


class DataError(ValueError):
    """Missing, broken or contradictory data or options; the message is one line that names the remedy.

    The attribute `user_error` tells the command line to print the message without a traceback.
    """

    user_error = True


def one_of(option: str, value: str, valid: Iterable[str]) -> str:
    """`value`, if it is one of `valid`.

    Raises:
        DataError: it is not; the message names the nearest valid values.

    >>> one_of("normalize", "unit", ["standard", "unit"])
    'unit'
    """
    names = [str(name) for name in valid]
    if value in names:
        return value
    close = get_close_matches(str(value), names, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(close)}" if close else f"valid: {', '.join(names)}"
    raise DataError(f"{option}={value!r} is not known; {hint}")


def require(condition: bool, message: str) -> None:
    """Raise a DataError with `message` unless `condition` holds."""
    if not condition:
        raise DataError(message)


def one_line(error: BaseException, *, most: int = 160) -> str:
    """The first non-empty line of an error's message, or its type if the message is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:most] if lines else type(error).__name__
