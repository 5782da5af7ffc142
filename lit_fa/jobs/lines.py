"""A command of `lit-fa` as words, and with this interpreter for a task elsewhere."""

import sys

Line = list[str]


def with_interpreter(line: Line) -> Line:
    """The line with this interpreter, because the shell of a task has no virtual environment."""
    return [sys.executable, "-m", "lit_fa", *line[1:]]
