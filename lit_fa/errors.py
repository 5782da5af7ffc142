"""The error class for input that the user can correct, and the texts of such errors."""

from difflib import get_close_matches


class UserError(ValueError):
    """Wrong input. The message is one line that names the remedy; the command line exits with code 2.

    The attribute `user_error`, on an exception class of any package, tells the command line to print the message
    without a traceback.
    """

    user_error = True


class RanksNeeded(Exception):  # a demand, no error
    """Raised in a worker, before anything is done, by a run that would start ranks: it needs a process of its own."""


def nearest(name: str, valid: list[str], *, most: int = 5) -> str:
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
