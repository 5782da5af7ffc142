"""One attack: a signal, or a disk that is full or read-only, at a random moment; then the run is resumed."""

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.disk import DISKS, FAULTS, Disk, can_mount
from benchmarks.chaos.process import Command
from benchmarks.chaos.work import KINDS, OUT, REPORT, SAID, Kind
from lit_fa.faults import VARIABLE

WEIGHTS = {"SIGKILL": 5, "SIGTERM": 5, "SIGINT": 3, "SIGSTOP": 2, "disk full": 2, "disk read-only": 2}
STOPPED_S, ENDS_S, LEAVES_S, TRIES = (0.3, 2.0), 120.0, 15.0, 4


@dataclass(frozen=True)
class Attack:
    """The kind of run, the attack, and its time as a share of the duration of an uninterrupted run."""

    number: int
    kind: str
    means: str
    target: str
    moment: float

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.number:04d}-{self.kind}"


@dataclass
class Outcome:
    """The result of an attack.

    Attributes:
        survived: the resumed command completed, with exit code 0.
        lost: names of results of an uninterrupted run that are missing or not readable.
        doubled: names of results that an uninterrupted run does not have.
        differing: names of results that differ.
        code: exit code of the attacked command; None: it had ended before.
        remarks: other problems: remaining processes, a traceback, leaked semaphores, another exit code.
        late: the command had ended before the attack, in every attempt.
    """

    attack: Attack
    survived: bool = False
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    code: int | None = None
    remarks: list[str] = field(default_factory=list)
    late: bool = False

    @property
    def harmless(self) -> bool:
        """Whether the attack had no effect on the results."""
        return self.survived and not (self.lost or self.doubled or self.differing or self.remarks)

    def plain(self) -> dict[str, Any]:
        """As data for JSON."""
        return asdict(self)


def drawn(seed: int, count: int, kinds: list[str]) -> list[Attack]:
    """The attacks of a seed; a larger number starts with the same attacks."""
    attacks = []
    for number in range(count):
        dice = random.Random(f"{seed}-{number}")
        kind = KINDS[kinds[number % len(kinds)]]
        means = dice.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        target = dice.choice(["group", "parent", *(["worker"] if kind.workers else [])])
        target = "disk" if means in DISKS else target
        attacks.append(Attack(number, kind.name, means, target, dice.uniform(0.02, 1.0)))
    return attacks


def attacked(attack: Attack, folder: Path, unbroken: dict[str, Any], seconds: float, *, fork: bool) -> Outcome:
    """Make the attack, resume the run to its end, and compare the results with an uninterrupted run.

    If the command has ended before the attack, the attack is repeated at an earlier time. If mounting is not permitted,
    or a file stays open for writing, the fault of the disk is injected by `LIT_FA_FAULT`.
    """
    named = attack.means in DISKS and not can_mount(folder.parent)
    for share in (1.0, 0.5, 0.25):
        outcome = _once(attack, folder, unbroken, share * seconds, fork=fork, named=named)
        if not outcome.late:
            break
        named = attack.means == "disk read-only"
    return outcome


def _once(
    attack: Attack, folder: Path, unbroken: dict[str, Any], seconds: float, *, fork: bool, named: bool
) -> Outcome:
    kind, outcome = KINDS[attack.kind], Outcome(attack)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind.write(folder)
    log = folder.with_suffix(".log")
    log.unlink(missing_ok=True)
    with Disk(folder / OUT, attack.means if attack.means in DISKS and not named else None) as disk:
        fault = {VARIABLE: FAULTS[attack.means]} if named else {}
        command = Command(kind.words(folder), folder, log, attack.name, fork=fork, environment=fault)
        try:
            outcome.late = not named and _strike(attack, command, disk, seconds)
            if not command.wait(ENDS_S):
                outcome.remarks.append(f"did not end in {ENDS_S:.0f} s")
            _inspect(outcome, attack, command)
        finally:
            command.end()
        if disk:
            disk.mend()
        _resume(outcome, kind, folder, log, fork)
        outcome.remarks += reported(kind, folder, attack.name, fork=fork)
        _compare(outcome, kind.left(folder), unbroken)
    if outcome.harmless:
        shutil.rmtree(folder, ignore_errors=True)
        log.unlink()
    return outcome


def _strike(attack: Attack, command: Command, disk: Disk | None, seconds: float) -> bool:
    """Attack at the given moment; returns whether the command had ended before."""
    late = command.wait(attack.moment * seconds)
    if disk:
        return not disk.strike() or late
    _signal(attack, command)
    return late


def _signal(attack: Attack, command: Command) -> None:
    """Send the signal to the session, the command or one of its workers; a stopped process is continued."""
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


def _inspect(outcome: Outcome, attack: Attack, command: Command) -> None:
    """Check the exit code, the output and the remaining processes."""
    outcome.code, output = command.rc, command.output()
    number = int(getattr(signal, attack.means, 0))
    stopped = number in (signal.SIGTERM, signal.SIGINT) and attack.target != "worker"
    if stopped and command.rc not in (0, 128 + number, -number):
        outcome.remarks.append(f"exit code {command.rc} after {attack.means}")
    if stopped and command.rc == 128 + number and not any(text in output for text in ("go on", "at once", "begin")):
        outcome.remarks.append("does not say how to go on")
    outcome.remarks += [sign for sign in ("Traceback", "leaked") if sign in output and number != signal.SIGKILL]
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
            outcome.remarks.append(f"going on: exit code {command.rc}: {command.output().strip()[-200:]}")
        finally:
            command.end()


def reported(kind: Kind, folder: Path, tag: str, *, fork: bool) -> list[str]:
    """Run the report of a kind, with files and output in `report`; returns its problems."""
    if not kind.report:
        return []
    (folder / REPORT).mkdir(exist_ok=True)
    command = Command([*kind.report], folder, folder / REPORT / SAID, tag, fork=fork)
    try:
        if command.wait(ENDS_S) and command.rc == 0:
            return []
        return [f"report: exit code {command.rc}: {command.output().strip()[-200:]}"]
    finally:
        command.end()


def _compare(outcome: Outcome, left: dict[str, Any], unbroken: dict[str, Any]) -> None:
    unreadable = [name for name, data in left.items() if "unreadable" in (data if isinstance(data, dict | str) else ())]
    outcome.lost = sorted({*unbroken} - {*left} | {*unreadable})
    outcome.doubled = sorted({*left} - {*unbroken})
    both = ({*left} & {*unbroken}) - {*unreadable}
    outcome.differing = sorted(name for name in both if left[name] != unbroken[name])
