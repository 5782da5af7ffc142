"""`python -m benchmarks.chaos --kills 100 --kinds table,sweep,federated,fit --seed 0 [--json FILE]`.

Every attack starts real work in a folder of its own, sends a random signal to the session, the command or one of its
workers, or takes the disk away, lets the work go on to its end and compares every record with an unbroken run's. The
attacks come from the seed; what is done is kept in the folder, so that the same command goes on where it stopped.
"""

import argparse
import json
import os
import time
from collections import defaultdict
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.attack import DISKS, Outcome, attacked, can_mount, drawn
from benchmarks.chaos.process import Command
from benchmarks.chaos.work import KINDS, VOLATILE
from lit_fa.stopping import handled, stop


def main() -> None:
    """The command line; a signal ends what is under way, and mends its disk."""
    with handled(stop):
        _run(_parser().parse_args())


def _run(arguments: argparse.Namespace) -> None:
    kinds = _kinds(arguments.kinds)
    folder = (arguments.folder or Path("scratch") / f"chaos-{arguments.seed}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop("LIT_FA_FAULT", None)
    if fork := arguments.start == "fork":
        for module in ("lit_fa.commands.fit", "lit_fa.commands.sweep", "lit_fa.commands.table", "lit_fa.trial"):
            import_module(module)  # once, here
    attacks = drawn(arguments.seed, arguments.kills, kinds)
    if not can_mount(folder):
        print("disks are left out: this user may not mount")
        attacks = [attack for attack in attacks if attack.means not in DISKS]
    unbroken = {kind: _unbroken(kind, folder, fork) for kind in kinds}
    done = _done(folder)
    for attack in attacks:
        if attack.number in done:
            continue
        reference = unbroken[attack.kind]
        found = attacked(attack, folder / attack.name, reference["left"], reference["seconds"], fork=fork)
        done[attack.number] = found.plain()
        with (folder / "done.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(found.plain()) + "\n")
        print(_line(found), flush=True)
    outcomes = [done[attack.number] for attack in attacks]
    _show(outcomes)
    if arguments.json:
        text = json.dumps({"volatile": VOLATILE, "attacks": outcomes}, indent=1) + "\n"
        arguments.json.write_text(text, encoding="utf-8")


def _kinds(given: str) -> list[str]:
    """The kinds that exist; the others are named and left out."""
    asked = given.split(",")
    for name in asked:
        if name not in KINDS:
            print(f"there is no {name!r} yet; it is left out (there are {', '.join(KINDS)})")
    return [name for name in asked if name in KINDS] or [*KINDS]


def _unbroken(kind: str, folder: Path, fork: bool) -> dict:
    """What the work leaves when nothing happens, and how long it takes; made twice, for equal runs must be equal."""
    kept = folder / f"unbroken-{kind}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    first: dict = {}
    for repeat in ("first", "second"):
        place = folder / f"unbroken-{kind}-{repeat}"
        place.mkdir(exist_ok=True)
        KINDS[kind].write(place)
        began = time.monotonic()
        command = Command(KINDS[kind].words(place), place, place / "log.txt", kind, fork=fork)
        if not command.wait(600) or command.rc:
            raise SystemExit(f"an unbroken {kind} ends with {command.rc}:\n{command.said()[-2000:]}")
        seconds, left = time.monotonic() - began, KINDS[kind].left(place)
        if repeat == "second" and left != first:
            raise SystemExit(f"two unbroken runs of {kind} differ: nothing can be compared with them")
        first = left
    content = {"seconds": seconds, "left": json.loads(json.dumps(first))}
    kept.write_text(json.dumps(content), encoding="utf-8")
    return content


def _done(folder: Path) -> dict[int, dict]:
    path = folder / "done.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return {outcome["attack"]["number"]: outcome for outcome in found}


def _line(outcome: Outcome) -> str:
    attack = outcome.attack
    wrong = [f"{name} {getattr(outcome, name)}" for name in ("lost", "doubled", "differing") if getattr(outcome, name)]
    said = "; ".join([*wrong, *outcome.remarks])
    survived = "survived" if outcome.survived else "NOT SURVIVED"
    return f"{attack.number}: {attack.kind}, {attack.means} to {attack.target}, {attack.moment:.2f}: {survived} {said}"


def _show(outcomes: list[dict]) -> None:
    """Kind, means and target: tried, survived, lost, doubled, differing, remarks."""
    rows = defaultdict(lambda: [0] * 6)
    for outcome in outcomes:
        attack = outcome["attack"]
        counted = [1, outcome["survived"], *(bool(outcome[n]) for n in ("lost", "doubled", "differing", "remarks"))]
        for key in ((attack["kind"], attack["means"], attack["target"]), ("all", "", "")):
            rows[key] = [a + b for a, b in zip(rows[key], counted, strict=True)]
    table = Table("kind", "means", "target", "tried", "survived", "lost", "doubled", "differing", "remarks")
    for key in sorted(rows, key=lambda key: (key[0] == "all", key)):
        table.add_row(*key, *map(str, rows[key]))
    Console(width=120).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="attacks")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of work, in turn: table,sweep,federated,packed,fit")
    parser.add_argument("--seed", type=int, default=0, help="of kinds, signals, targets and moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome there")
    parser.add_argument("--folder", type=Path, help="of the work; default: scratch/chaos-SEED")
    start = "spawn: new processes, as a user's; fork: copies of this one, which saves ten seconds of imports each"
    parser.add_argument("--start", choices=("spawn", "fork"), default="spawn", help=start)
    return parser


if __name__ == "__main__":
    main()
