"""How many runs one program trains, measured on their first steps."""

from collections.abc import Callable, Sequence
from typing import Any

STEPS = 4  # timed steps of each size, after one that stacks the tensors


class Size:
    """The number of runs of one kind that are trained together; they keep their places in programs of that size.

    `measured`: the sizes 1, 2, 4, ... and all are timed on the first steps, which are steps of training as all others.
    The one with the least time a step and run is kept, or none, if the steps of each run alone take less.

    Args:
        runs: of this kind.
        measured: False: all runs together.
        clock: seconds.

    Attributes:
        chosen: runs of a program; 0: each run takes its own steps; None: not yet known.
        note: what was chosen and why, in one line.
    """

    def __init__(self, runs: int, measured: bool, clock: Callable[[], float]):
        """See the class."""
        self.runs, self.clock = runs, clock
        self.candidates = [*sizes_up_to(runs)] if measured else []
        self.seconds: dict[int, float] = {}
        self.places: dict[int, int] = {}
        self.chosen = None if measured else runs
        self.note = ""

    def groups(self, lanes: Sequence[Any], size: int) -> list[list[Any]]:
        """The lanes, in programs of at most `size`; a lane stays with its neighbours when others end."""
        programs: dict[int, list[Any]] = {}
        for lane in lanes:
            place = self.places.setdefault(id(lane), len(self.places))
            programs.setdefault(place // size, []).append(lane)
        return [*programs.values()]

    def step(self, lanes: Sequence[Any], take: Callable[[Sequence[Any], int], int], own: Sequence[float]) -> None:
        """Let lanes take joint steps: as many as all want, or fewer while sizes are timed.

        Args:
            lanes: that wait.
            take: lets some lanes take at most so many steps together; returns how many.
            own: seconds of a step of each lane alone.
        """
        wanted = min(lane.member.wanted for lane in lanes)
        if self.chosen is None and self.candidates and wanted > STEPS:
            self._time(lanes, take)
        else:
            for group in self.groups(lanes, self.chosen or self.runs):
                take(group, wanted)
        if self.chosen is None and not self.candidates:
            self._choose(own)

    def _time(self, lanes: Sequence[Any], take: Callable[[Sequence[Any], int], int]) -> None:
        size, seconds, steps = self.candidates.pop(0), 0.0, 0
        for group in self.groups(lanes, size):
            take(group, 1)
            start = self.clock()
            steps += take(group, STEPS) * len(group)
            seconds += self.clock() - start
        if steps:
            self.seconds[size] = per_step(seconds, steps)

    def _choose(self, own: Sequence[float]) -> None:
        alone = min(own, default=float("inf"))
        best = min(self.seconds, key=lambda size: self.seconds[size], default=0)
        self.chosen = best if best and self.seconds[best] < alone else 0
        figures = [f"{_runs(size)} {1e3 * s:.2f} ms" for size, s in sorted(self.seconds.items())]
        figures += [f"each by autograd {1e3 * alone:.2f} ms"] if own else []
        chosen = f"{_runs(self.chosen)} as one program" if self.chosen else "each run by autograd"
        self.note = f"{chosen}, which took the least time a step and run: {', '.join(figures)}"


def per_step(seconds: float, steps: int) -> float:
    """Seconds of one step of one run."""
    return seconds / steps


def sizes_up_to(runs: int) -> list[int]:
    """The sizes to try.

    >>> sizes_up_to(6), sizes_up_to(1)
    ([1, 2, 4, 6], [1])
    """
    return [*(2**n for n in range(runs.bit_length()) if 2**n < runs), runs]


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
