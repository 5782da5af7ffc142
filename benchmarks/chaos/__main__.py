"""`python -m benchmarks.chaos --kills 100 --kinds table,sweep,federated,fit --seed 0 [--json FILE]`.

Every attack starts a real run in its own folder, sends a random signal to the session, the command or one of its
workers, or makes the disk full or read-only, resumes the run to its end and compares every record with an uninterrupted
run. The attacks are drawn from the seed. Results are stored in done.jsonl in the folder, so that the same command
continues where it stopped. `--combine FILE...` makes one Markdown table of several such files, without attacks.
"""

import argparse
import json
import os
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.chaos.attack import Outcome, attacked, drawn, reported
from benchmarks.chaos.process import Command
from benchmarks.chaos.summary import markdown, origin, outcomes_in, show
from benchmarks.chaos.work import KINDS, VOLATILE, VOLATILE_FACTS
from lit_fa.faults import VARIABLE
from lit_fa.provenance import ROOT, code_in
from lit_fa.stopping import handled, stop


def main() -> None:
    """The command line; a signal ends the current attack and restores its disk."""
    arguments = _parser().parse_args()
    if arguments.combine:
        outcomes = [outcome for path in arguments.combine for outcome in outcomes_in(path)]
        print(origin(outcomes), markdown(outcomes), sep="\n\n")
        return
    with handled(stop):
        _run(arguments)


def _run(arguments: argparse.Namespace) -> None:
    kinds = _kinds(arguments.kinds)
    folder = (arguments.folder or Path("scratch") / f"chaos-{arguments.seed}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop(VARIABLE, None)
    if fork := arguments.start == "fork":
        parts = ("experiment", "commands.fit", "commands.sweep", "commands.table", "reports.pages", "trial")
        for module in [f"lit_fa.{part}" for part in parts]:
            import_module(module)  # once, here
    attacks, commit = drawn(arguments.seed, arguments.kills, kinds), code_in(ROOT).key
    unbroken = {kind: _unbroken(kind, folder, fork) for kind in kinds}
    done = _done(folder)
    for attack in attacks:
        if attack.number in done:
            continue
        reference = unbroken[attack.kind]
        outcome = attacked(attack, folder / attack.name, reference["left"], reference["seconds"], fork=fork)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        done[attack.number] = outcome.plain() | {"date": when, "commit": commit, "start": arguments.start}
        with (folder / "done.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[attack.number]) + "\n")
        print(_line(outcome), flush=True)
    outcomes = [done[attack.number] for attack in attacks]
    show(outcomes)
    if arguments.json:
        content = {"volatile": VOLATILE, "volatile_facts": VOLATILE_FACTS, "attacks": outcomes}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _kinds(given: str) -> list[str]:
    """The known kinds; unknown ones are printed and ignored."""
    names = given.split(",")
    for name in names:
        if name not in KINDS:
            print(f"unknown kind {name!r} is left out (known: {', '.join(KINDS)})")
    return [name for name in names if name in KINDS] or [*KINDS]


def _unbroken(kind: str, folder: Path, fork: bool) -> dict[str, Any]:
    """Results and duration of the uninterrupted run, which is run twice to check that equal runs give equal results."""
    file = folder / f"unbroken-{kind}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    first: dict[str, Any] = {}
    for repeat in ("first", "second"):
        place = folder / f"unbroken-{kind}-{repeat}"
        place.mkdir(exist_ok=True)
        KINDS[kind].write(place)
        began = time.monotonic()
        command = Command(KINDS[kind].words(place), place, place / "log.txt", kind, fork=fork)
        if not command.wait(600) or command.rc:
            raise SystemExit(f"an unbroken {kind} ends with {command.rc}:\n{command.output()[-2000:]}")
        seconds = time.monotonic() - began
        if wrong := reported(KINDS[kind], place, kind, fork=fork):
            raise SystemExit(f"an unbroken {kind}: {wrong[0]}")
        left = KINDS[kind].left(place)
        if repeat == "second" and left != first:
            differing = ", ".join(name for name in {*left, *first} if left.get(name) != first.get(name))
            raise SystemExit(f"two unbroken runs of {kind} differ, so nothing can be compared with them: {differing}")
        first = left
    content = {"seconds": seconds, "left": json.loads(json.dumps(first))}
    file.write_text(json.dumps(content), encoding="utf-8")
    return content


def _done(folder: Path) -> dict[int, dict[str, Any]]:
    return {outcome["attack"]["number"]: outcome for outcome in outcomes_in(folder / "done.jsonl")}


def _line(outcome: Outcome) -> str:
    attack = outcome.attack
    wrong = [f"{name} {getattr(outcome, name)}" for name in ("lost", "doubled", "differing") if getattr(outcome, name)]
    problems = "; ".join([*wrong, *outcome.remarks])
    survived = "survived" if outcome.survived else "NOT SURVIVED"
    return (
        f"{attack.number}: {attack.kind}, {attack.means} to {attack.target}, {attack.moment:.2f}: {survived} {problems}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="attacks")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of work, in turn: table,sweep,federated,packed,fit")
    parser.add_argument("--seed", type=int, default=0, help="of kinds, signals, targets and moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome there")
    parser.add_argument("--folder", type=Path, help="of the work; default: scratch/chaos-SEED")
    start = "spawn: new processes, as a user's; fork: copies of this one, which saves ten seconds of imports each"
    parser.add_argument("--start", choices=("spawn", "fork"), default="spawn", help=start)
    parser.add_argument("--combine", type=Path, nargs="+", metavar="FILE", help="print one table of these done.jsonl")
    return parser


if __name__ == "__main__":
    main()
