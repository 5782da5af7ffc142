"""argparse for our commands, with one-line errors."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from lit_fa.errors import UserError
from lit_fa.shipped import shipped


class Arguments(argparse.ArgumentParser):
    """Raises a `UserError` where argparse would print its usage and exit; also used for subcommands."""

    def error(self, message: str) -> NoReturn:
        """Raise the message with a reference to the command's help."""
        raise UserError(f"{message} ({self.prog} --help)")


def in_range(*, least: float, whole: bool = True, most: float = math.inf) -> Callable[[str], float]:
    """A type of an option: a finite number in a range.

    >>> in_range(least=1)("3")
    3
    """

    def read(text: str) -> float:
        words = f"a {'whole ' if whole else ''}number from {least:g}{f' to {most:g}' if most < math.inf else ' on'}"
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {words.removeprefix('a ')}") from None
        if not (least <= value <= most and (whole or math.isfinite(value))):
            raise argparse.ArgumentTypeError(f"{text} is not {words}")
        return value

    return read


def nonempty(text: str) -> str:
    """A type of an option: text that is not blank.

    >>> nonempty("a")
    'a'
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: write a value, or leave the option out")
    return text


def file_path(text: str) -> Path:
    """A type of an option: the path of a file or folder. The path of blank text would be the current folder.

    >>> file_path("a.json").name
    'a.json'
    """
    return Path(nonempty(text))


def table_path(text: str) -> Path:
    """A type of an option: a table, a sweep or a folder of them, here or in the installed package.

    >>> table_path("paper_configs/conservation/digits.yaml").name
    'digits.yaml'
    """
    return shipped(file_path(text))


def take_option(argv: list[str], name: str, what: str) -> tuple[list[str], str | None]:
    """The words without `name VALUE` or `name=VALUE`, and the value; None if it is not among them.

    Raises:
        UserError: the name is the last word, or its value is blank; `what` describes the missing value.

    >>> take_option(["fit", "--json=out.json", "-v"], "--json", "a file")
    (['fit', '-v'], 'out.json')
    """
    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith(f"{name}=") else [word])]
    if name not in argv:
        return argv, None
    at = argv.index(name)
    if at + 1 == len(argv) or not argv[at + 1].strip():
        raise UserError(f"{name} needs {what}")
    return argv[:at] + argv[at + 2 :], argv[at + 1]
