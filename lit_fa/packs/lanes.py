"""Runs that take turns in one thread: each goes on until it asks for joint steps, or ends."""

import gc
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from greenlet import getcurrent, greenlet

from lit_fa.packs.size import Size
from lit_fa.packs.state import ProcessState
from lit_fa.stopping import Request, Stopped, handled

T = TypeVar("T")
Clock = Callable[[], float]


class Member(Protocol):
    """What a run hands over to take joint steps; see `lit_fa.packs.member`."""

    wanted: int
    error: BaseException | None
    own_seconds: float | None  # of a step that it has taken alone
    alone: bool  # whether it takes all steps alone from now on

    @property
    def key(self) -> Any:
        """Members with equal keys are trained by one program."""

    @property
    def signum(self) -> int:
        """The signal that has asked this run to end, 0 for none."""


class Program(Protocol):
    """The joint steps of members with one key."""

    def run(self, steps: int, stopped: Callable[[], bool]) -> int:
        """Take at most `steps` steps; returns how many have been taken."""


Compose = Callable[[Sequence[Any]], Program]


class LaneClock:
    """A clock that runs only while its lane does; of joint steps a lane has an equal share.

    Args:
        clock: of the process, in seconds.
    """

    def __init__(self, clock: Clock):
        """It stands still."""
        self.clock, self.spent = clock, 0.0
        self.since: float | None = None

    def __call__(self) -> float:
        """Seconds so far."""
        return self.spent + (0.0 if self.since is None else self.clock() - self.since)

    def start(self) -> None:
        """Let it run."""
        self.since = self.clock()

    def stop(self) -> None:
        """Let it stand still."""
        self.spent, self.since = self(), None


class Lane(Generic[T]):
    """One run of a pack.

    Attributes:
        lanes: the largest number of runs, itself included, with which it has taken joint steps.
        joined: its member, once it takes joint steps.
        wall, cpu: its clocks.
        measured: whether its pack measures how many runs are trained together.
        maps: whether its pack maps runs without explicit steps.
        note: what it has chosen, in one line, until the run has logged it.
        result: what the run has returned; or `error`, what it has raised.
    """

    def __init__(self, body: Callable[[], T], cpu: Clock = time.process_time):
        """body: the run."""
        self.greenlet = greenlet(self._run)
        self.body = body
        self.wall, self.cpu = LaneClock(time.monotonic), LaneClock(cpu)
        self.state: ProcessState | None = None
        self.member: Any = None  # while it waits for joint steps
        self.joined: Any = None  # its member, also afterwards
        self.compose: Compose | None = None
        self.lanes, self.measured, self.maps, self.note = 1, False, False, ""
        self.asked_to_end = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def joint_steps(self, member: Member, compose: Compose) -> None:
        """Called by the run itself: wait until the member's steps are taken, or fewer if the pack is asked to end."""
        self.member, self.compose = member, compose
        self.greenlet.parent.switch()
        self.member = None
        if member.error is not None:
            error, member.error = member.error, None
            raise error

    def _run(self) -> None:
        try:
            self.result = self.body()
        except BaseException as error:
            self.error = error

    def resume(self, signum: int) -> None:
        """Let the run go on until it waits or ends; `signum`: ask it to end, once."""
        outside = ProcessState.swapped(self.state)
        self.wall.start()
        self.cpu.start()
        try:
            if signum and not self.asked_to_end:
                self.asked_to_end = True
                signal.raise_signal(signum)
            self.greenlet.switch()
        finally:
            self.wall.stop()
            self.cpu.stop()
            self.state = ProcessState.swapped(outside)

    def charge(self, wall: float, cpu: float) -> None:
        """Add a share of joint steps to the clocks."""
        self.wall.spent += wall
        self.cpu.spent += cpu


@dataclass
class Pack:
    """Runs that take turns. After a signal every run that has begun writes its checkpoint, and no other begins.

    Attributes:
        lanes: the runs.
        measured: whether the number of runs that are trained together is measured, or it is all that can be.
        maps: whether runs without explicit steps are one program, by vmap, which on a CPU takes longer than each alone.
    """

    lanes: Sequence[Lane[Any]]
    measured: bool = False
    maps: bool = False
    sizes: dict[Any, Size] = field(default_factory=dict)

    def run(self) -> None:
        """Carry out all runs; how each ended is in its lane."""
        request, ready = Request(patient=True), [*self.lanes]
        for lane in self.lanes:
            lane.measured, lane.maps = self.measured, self.maps
        waiting: list[Lane[Any]] = []
        with handled(request):
            while ready or waiting:
                for lane in ready:
                    if request.signum and lane.state is None:
                        lane.error = Stopped(request.signum)
                        continue
                    _go_on(lane, request.signum)
                    waiting += [lane] if lane.member is not None else []
                    if not request.signum and (signum := _signum(lane)):
                        request(signum)
                self._step(waiting, lambda: bool(request.signum))
                ready = [w for w in waiting if request.signum or w.member.error or w.member.wanted <= 0]
                waiting = [lane for lane in waiting if lane not in ready]
        for lane in self.lanes:
            lane.joined = None
        gc.collect()  # trainers and programs refer to each other; the next pack reads its own images

    def _step(self, waiting: Sequence[Lane[Any]], stopped: Callable[[], bool]) -> None:
        """Let the lanes of each kind take joint steps, until a lane has all that it has asked for, or sooner."""
        kinds: dict[Any, list[Lane[Any]]] = {}
        for lane in waiting:
            kinds.setdefault(lane.member.key, []).append(lane)
        for key, lanes in kinds.items():
            size = self.sizes.setdefault(key, Size(len(lanes), self.measured, lanes[0].cpu.clock))
            own = [lane.member.own_seconds for lane in lanes if lane.member.own_seconds is not None]
            known = size.chosen
            size.step(lanes, lambda group, steps: _take(group, steps, stopped), own)
            for lane in lanes:
                if known is None and size.chosen is not None:
                    lane.note = size.note
                if size.chosen == 0:
                    lane.member.alone, lane.member.wanted = True, 0


def _take(lanes: Sequence[Lane[Any]], steps: int, stopped: Callable[[], bool]) -> int:
    """Let lanes take at most `steps` steps by one program; returns how many. An error is one of all lanes concerned."""
    members, compose, cpu_clock = [lane.member for lane in lanes], lanes[0].compose, lanes[0].cpu.clock
    assert compose is not None
    wall, cpu, taken = time.monotonic(), cpu_clock(), 0
    try:
        taken = compose(members).run(steps, stopped)
    except Exception as error:
        for member in members:
            member.error = member.error or error
    for lane in lanes:
        lane.member.wanted -= taken
        lane.lanes = max(lane.lanes, len(lanes))
        lane.charge((time.monotonic() - wall) / len(lanes), (cpu_clock() - cpu) / len(lanes))
    return taken


def current() -> Lane[Any] | None:
    """The lane whose run calls this; None outside a pack."""
    return _lanes.get(id(getcurrent()))


_lanes: dict[int, Lane[Any]] = {}


def _go_on(lane: Lane[Any], signum: int) -> None:
    _lanes[id(lane.greenlet)] = lane
    try:
        lane.resume(signum)
    finally:
        if lane.greenlet.dead:
            del _lanes[id(lane.greenlet)]


def _signum(lane: Lane[Any]) -> int:
    """The signal that has come while the lane ran."""
    if isinstance(lane.error, KeyboardInterrupt):
        return getattr(lane.error, "signum", signal.SIGINT)
    return lane.joined.signum if lane.joined is not None else 0
