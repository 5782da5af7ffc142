"""One attack: a signal to somebody, or a disk that is full or read-only, at a random moment; then the work goes on."""

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.process import Command
from benchmarks.chaos.work import KINDS, Kind

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGSTOP")
DISKS = ("disk full", "disk read-only")
WEIGHTS = {"SIGKILL": 5, "SIGTERM": 5, "SIGINT": 3, "SIGSTOP": 2, "disk full": 1, "disk read-only": 1}
STOPPED_S, ENDS_S, LEAVES_S, TRIES = (0.3, 2.0), 120.0, 15.0, 4
DISK_MIB = 24


@dataclass(frozen=True)
class Attack:
    """What happens to which kind of work, after which share of an unbroken run's time."""

    number: int
    kind: str
    means: str
    target: str
    moment: float

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number:04d}-{self.kind}"


@dataclass
class Outcome:
    """How it ended.

    Attributes:
        survived: the command went on to its end, with exit code 0.
        lost: names of what an unbroken run leaves and this one did not, or not readable.
        doubled: names of what only this one left.
        differing: names of what differs.
        code: exit code of the command that was attacked; None: it had ended before.
        remarks: what else is wrong: processes left behind, a traceback, leaked semaphores, another exit code.
    """

    attack: Attack
    survived: bool = False
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    code: int | None = None
    remarks: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def drawn(seed: int, count: int, kinds: list[str]) -> list[Attack]:
    """The attacks of a seed; more of them begin with the same ones."""
    found = []
    for number in range(count):
        dice = random.Random(f"{seed}-{number}")
        kind = KINDS[kinds[number % len(kinds)]]
        means = dice.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        target = dice.choice(["group", "parent", *(["worker"] if kind.workers else [])])
        target = "disk" if means in DISKS else target
        found.append(Attack(number, kind.name, means, target, dice.uniform(0.02, 1.0)))
    return found


def attacked(attack: Attack, folder: Path, unbroken: dict[str, Any], seconds: float, *, fork: bool) -> Outcome:
    """Do it, let the work go on to its end, and compare what is left with an unbroken run.

    An attack that comes too late, because the machine is faster than it was, comes earlier the next time.
    """
    for share in (1.0, 0.5, 0.25):
        outcome, late = _once(attack, folder, unbroken, share * seconds, fork=fork)
        if not late:
            break
    return outcome


def _once(
    attack: Attack, folder: Path, unbroken: dict[str, Any], seconds: float, *, fork: bool
) -> tuple[Outcome, bool]:
    kind, outcome = KINDS[attack.kind], Outcome(attack)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind.write(folder)
    log = folder.with_suffix(".log")
    log.unlink(missing_ok=True)
    with _disk(folder, attack) as disk:
        command = Command(kind.words(folder), folder, log, attack.name, fork=fork)
        try:
            late = command.wait(attack.moment * seconds)
            disk.strike() if disk else _signal(attack, command)
            if not command.wait(ENDS_S):
                outcome.remarks.append(f"did not end in {ENDS_S:.0f} s")
            _look_at(outcome, attack, command)
        finally:
            command.end()
        if disk:
            disk.mend()
        _resume(outcome, kind, folder, log, fork)
        _compare(outcome, kind.left(folder), unbroken)
    if outcome.survived and not (outcome.lost or outcome.doubled or outcome.differing or outcome.remarks):
        shutil.rmtree(folder, ignore_errors=True)
        log.unlink()
    return outcome, late


def _signal(attack: Attack, command: Command) -> None:
    """To the whole session, to the command, or to one of its workers; a stopped one is continued."""
    number = getattr(signal, attack.means)
    _send(attack.target, command, number)
    if number == signal.SIGSTOP:
        time.sleep(random.Random(attack.number).uniform(*STOPPED_S))
        _send(attack.target, command, signal.SIGCONT)


def _send(target: str, command: Command, number: int) -> None:
    with suppress(ProcessLookupError, psutil.Error):
        if target == "worker" and (workers := sorted(command.workers(), key=lambda p: p.pid)):
            workers[0].send_signal(number)
        elif command.ended():
            return
        elif target == "group":
            os.killpg(command.pid, number)
        else:
            os.kill(command.pid, number)


def _look_at(outcome: Outcome, attack: Attack, command: Command) -> None:
    """The exit code, the last words, and who is left."""
    outcome.code, said = command.rc, command.said()
    number = getattr(signal, attack.means, None)
    stopped = number in (signal.SIGTERM, signal.SIGINT) and attack.target != "worker"
    if stopped and command.rc not in (0, 128 + number, -number):
        outcome.remarks.append(f"exit code {command.rc} after {attack.means}")
    if stopped and command.rc == 128 + number and "go on" not in said and "at once" not in said and "begin" not in said:
        outcome.remarks.append("does not say how to go on")
    outcome.remarks += [sign for sign in ("Traceback", "leaked") if sign in said and number != signal.SIGKILL]
    until = time.monotonic() + LEAVES_S
    while (left := command.family()) and time.monotonic() < until:
        time.sleep(0.2)
    outcome.remarks += [f"left behind: {' '.join(process.cmdline())[:120]}" for process in left]


def _resume(outcome: Outcome, kind: Kind, folder: Path, log: Path, fork: bool) -> None:
    for _ in range(TRIES):
        command = Command(kind.words(folder), folder, log, outcome.attack.name, fork=fork)
        try:
            if command.wait(ENDS_S) and command.rc == 0:
                outcome.survived = True
                return
            outcome.remarks.append(f"going on: exit code {command.rc}: {command.said().strip()[-200:]}")
        finally:
            command.end()


def _compare(outcome: Outcome, left: dict[str, Any], unbroken: dict[str, Any]) -> None:
    unreadable = [name for name, data in left.items() if "unreadable" in (data if isinstance(data, dict | str) else ())]
    outcome.lost = sorted({*unbroken} - {*left} | {*unreadable})
    outcome.doubled = sorted({*left} - {*unbroken})
    both = ({*left} & {*unbroken}) - {*unreadable}
    outcome.differing = sorted(name for name in both if left[name] != unbroken[name])


class _disk:
    """A small tmpfs under the folder's output, where the attack is one on a disk; else nothing."""

    def __init__(self, folder: Path, attack: Attack):
        self.place, self.attack = folder / "out", attack

    def __enter__(self) -> "_disk | None":
        if self.attack.means not in DISKS:
            return None
        self.place.mkdir()
        _mount("-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(self.place))
        return self

    def strike(self) -> None:
        """Fill it, or make it read-only as soon as no file is open for writing."""
        if self.attack.means == "disk full":
            with suppress(OSError), (self.place / ".filler").open("wb") as file:
                while True:
                    file.write(b"\0" * 65536)
                    file.flush()
            return
        for _ in range(200):
            with suppress(subprocess.CalledProcessError):
                _mount("-o", "remount,ro", str(self.place))
                return
            time.sleep(0.02)

    def mend(self) -> None:
        """A disk as before."""
        if self.attack.means == "disk full":
            (self.place / ".filler").unlink(missing_ok=True)
        else:
            _mount("-o", "remount,rw", str(self.place))

    def __exit__(self, *_: object) -> None:
        if self.attack.means in DISKS:
            subprocess.run(["umount", "-l", str(self.place)], check=False, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a tmpfs; where not, disks are left out."""
    place = folder / "mounted"
    place.mkdir(parents=True, exist_ok=True)
    try:
        _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place))
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(place)], check=False, capture_output=True)
    return True


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)
