"""The display of progress: a bar at a terminal, one line per run in a log."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lit_fa.escaping import plain

_STOPPING = "the runs under way finish their step and keep a checkpoint; press Ctrl-C again to stop at once"


class Reporter(Protocol):
    """Receives the start, end and retry of every run; used as a context."""

    def started(self, label: str) -> None:
        """A worker has started the run."""

    def ended(self, label: str, outcome: str) -> None:
        """The run has ended; `outcome` is one line."""

    def retried(self, label: str) -> None:
        """The worker of the run was killed; the run will be retried."""

    def stopping(self) -> None:
        """A signal has arrived; the current runs are asked to stop."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None: ...


def say(console: Console, line: str) -> None:
    """Print a line without markup, and without characters that are not printable."""
    console.print(plain(line), markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """`0.8 s`, `3 min 20 s` or `2 h 05 min`.

    >>> duration(0.82), duration(200), duration(7500)
    ('0.8 s', '3 min 20 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def short_path(path: str | Path) -> str:
    """The path relative to the current folder, if it is inside it."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def reporter(total: int, console: Console, labels: Sequence[str] = ()) -> Reporter:
    """A bar at a terminal, plain lines elsewhere; with labels `cell, seed k` the bar also counts cells."""
    return _Bar(total, labels, console) if console.is_terminal else _Lines(total, console)


class _Lines:
    def __init__(self, total: int, console: Console) -> None:
        self.total, self.console = total, console
        self.done, self.start = 0, time.monotonic()

    def started(self, label: str) -> None:
        say(self.console, f"start  {label}")

    def ended(self, label: str, outcome: str) -> None:
        self.done += 1
        seconds = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        left = f", about {seconds:.0f} s left" if seconds else ""
        say(self.console, f"[{self.done}/{self.total}] {label}: {outcome}{left}")

    def retried(self, label: str) -> None:
        say(self.console, f"the worker of {label} was killed by the system; trying once more")

    def stopping(self) -> None:
        say(self.console, _STOPPING)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Bar:
    def __init__(self, total: int, labels: Sequence[str], console: Console) -> None:
        self.running: list[str] = []
        self.left = Counter(_cell(label) for label in labels)  # seeds of each cell
        self.cells = len(self.left)
        columns = (
            TextColumn("runs"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, TextColumn("{task.description}", markup=False), console=console)
        self.task = self.progress.add_task("", total=total)

    def started(self, label: str) -> None:
        self.running.append(label)
        self._show()

    def ended(self, label: str, outcome: str) -> None:
        self.running.remove(label)
        if self.cells:
            self.left[_cell(label)] -= 1
        self.progress.console.print(f"{label}: {outcome}", markup=False, highlight=False)
        self.progress.advance(self.task)
        self._show()

    def retried(self, label: str) -> None:
        self.running.remove(label)
        self.progress.console.print(f"the worker of {label} was killed; trying once more", markup=False)
        self._show()

    def stopping(self) -> None:
        self.progress.console.print(_STOPPING, markup=False)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def _show(self) -> None:
        done = sum(seeds == 0 for seeds in self.left.values())
        cells = f"cells {done}/{self.cells}  " if self.cells else ""
        self.progress.update(self.task, description=cells + "; ".join(self.running))


def _cell(label: str) -> str:
    return label.rpartition(", seed ")[0]
