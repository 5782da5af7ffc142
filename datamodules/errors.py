"""The one error of this package: data that a person can mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class DataError(ValueError):
    """Missing, broken or contradictory data or options; the message is one line that says what to do.

    `user_error` marks any exception class whose message a command line prints without a traceback.
    """

    user_error = True


def one_of(option: str, value: str, valid: Iterable[str]) -> str:
    """`value` if it is valid, else a DataError that names the nearest valid ones.

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
    """The first non-empty line of an error's text, or its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:most] if lines else type(error).__name__
