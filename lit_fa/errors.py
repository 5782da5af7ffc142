"""Errors that a user can mend: one line, what to do in it, exit code 2 at the command line."""

from difflib import get_close_matches


class UserError(ValueError):
    """Wrong input, not a wrong program.

    `user_error` marks any exception class, in any package, whose message the command line prints without a traceback.
    """

    user_error = True


class RanksNeeded(Exception):  # a demand, no error
    """Raised in a worker, before anything is done, by a run that would start ranks: it needs a process of its own."""


def nearest(name: str, valid: list[str], *, most: int = 5) -> str:
    """The end of an error message: the valid names that look most like `name`, or the first few of them.

    >>> nearest("lenett", ["lenet", "mlp"])
    'nearest: lenet'
    """
    close = get_close_matches(str(name), valid, n=most, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"valid: {', '.join(sorted(valid)[:20])}"
