"""Bugs drawn by a seed from all of `functional`, `layers` and `rules`: which test catches each?

    python -m benchmarks.seeded_bugs [--seed 0] [--n 50] [--list] [--json FILE] [--stages own near contract rest]

A bug is a wrong sign, transposition, factor, comparison, index or term, or a missing `detach` (`mutations.KINDS`), the
same number of each. It is inserted into a copy of the tree. The tests of its file run first, then those near it, then
the contract tests of the rules that use the file, then all others. The first test that fails is run by itself, with the
bug and without it. If it fails with the bug and passes without it, the bug is caught; otherwise the test is ignored.
Nothing is written into the working tree. With `--json` a stopped run continues; a bug that survived is tried again if
the tests have changed. Bugs that change no behaviour are listed, with the reason, in `equivalent.yaml`.
"""

import argparse
import hashlib
import json
import random
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.seeded_bugs import running
from benchmarks.seeded_bugs.mutations import KINDS, Bug, apply, bugs, valid
from benchmarks.seeded_bugs.tests_of import Imports, stages

TREE = Path(__file__).parents[2]
FOLDERS = ("lit_fa/functional", "lit_fa/layers", "lit_fa/rules")
STAGES = ("own", "near", "contract", "rest")
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")
HANGS_AFTER = {"stage": 300, "file": 60, "test": 120}  # seconds of processor time; a stage has those of its files


def drawn(tree: Path, number: int, seed: int) -> list[Bug]:
    """`number` bugs: every kind in turn, at most one per line, drawn equally from all files."""
    files = [str(p.relative_to(tree)) for folder in FOLDERS for p in sorted((tree / folder).glob("*.py"))]
    pool = [bug for file in files for bug in bugs(tree, file)]
    draw = random.Random(seed)
    draw.shuffle(pool)
    chosen: list[Bug] = []
    while len(chosen) < number:
        lines = {(bug.file, bug.line) for bug in chosen}
        kind = KINDS[len(chosen) % len(KINDS)]
        left = [bug for bug in pool if (bug.file, bug.line) not in lines]
        fitting = (bug for bug in left if bug.kind == kind and valid(apply(bug, (tree / bug.file).read_bytes())))
        chosen.append(next(fitting))
    return chosen


def equivalents() -> dict[tuple[str, str, str], str]:
    """(file, line, line with the bug) to the reason why it changes no behaviour."""
    known = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) or []
    return {(entry["file"], entry["was"], entry["becomes"]): entry["because"] for entry in known}


def digest(tree: Path) -> str:
    """Of all tests: what survived the old ones may not survive the new."""
    hashed = hashlib.sha256()
    for path in sorted((tree / "tests").rglob("*.py")):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:16]


class Trials:
    """Tries bugs in a copy of the tree, which is sound again behind each.

    A bug is caught by a test that, run by itself, fails with the bug and passes without it. What a test says without
    any bug is asked once.
    """

    def __init__(self, copy: Path, imports: Imports, asked: list[str]):
        """`asked` are the stages to run."""
        self.copy, self.imports, self.asked = copy, imports, asked
        self.passes: dict[str, bool] = {}
        self.spent = 0.0

    def tried(self, bug: Bug) -> dict[str, Any]:
        """What becomes of one bug: caught, by which test of which stage, or survived."""
        plan, self.spent = stages(self.imports, bug.file), 0.0
        without = {test for test, passes in self.passes.items() if not passes}
        for stage in (stage for stage in self.asked if plan[stage]):
            seconds = max(HANGS_AFTER["stage"], HANGS_AFTER["file"] * len(plan[stage]))
            while failure := self.failure(bug.file, bug, plan[stage], seconds, without=frozenset(without)):
                if self.is_to_blame(bug, failure["test"]):
                    return {"fate": "caught", "stage": stage, **failure, "seconds": round(self.spent, 1)}
                without.add(failure["test"])
        result = {"fate": "survived", "stages": self.asked, "seconds": round(self.spent, 1)}
        return result | ({"left out": sorted(without)} if without else {})

    def is_to_blame(self, bug: Bug, test: str) -> bool:
        """Whether a test passes without the bug and fails with it; a file that cannot be imported counts as a test."""
        alone = partial(self.failure, names=[test], seconds=HANGS_AFTER["test"], collecting="::" not in test)
        if test not in self.passes:
            self.passes[test] = alone(bug.file, None) is None
        return self.passes[test] and alone(bug.file, bug) is not None

    def failure(
        self, file: str, bug: Bug | None, names: list[str], seconds: int, **options: Any
    ) -> dict[str, Any] | None:
        """The first failure of tests that reach `file`, with a bug in it or as it is."""
        path, reaching = self.copy / file, frozenset(map(module, self.imports.distances(file)))
        sound = path.read_bytes()
        running.stamp(path, apply(bug, sound) if bug else sound)
        try:
            run = running.Run(tuple(names), reaching, seconds, **options)
            failure, spent = running.first_failure(self.copy, run)
        finally:
            running.stamp(path, sound)
        self.spent += spent
        return failure


def module(file: str) -> str:
    """The name by which a file is imported."""
    return file.removesuffix(".py").replace("/", ".")


def shown(results: list[tuple[Bug, dict[str, Any]]]) -> None:
    """The table, and the share."""
    table = Table("place", "kind", "line, and what became of it", "fate")
    for bug, result in results:
        by = result.get("test") or result.get("because") or ", ".join(result.get("stages", []))
        row = (f"{bug.file}:{bug.line}", bug.kind, f"{bug.was}\n{bug.becomes}", f"{result['fate']}\n{by}")
        table.add_row(*map(escape, row))
    console = Console()
    console.print(table)
    seen = [result["fate"] for _, result in results if result["fate"] != "equivalent"]
    console.print(f"{seen.count('caught')} of {len(seen)} caught, {len(results) - len(seen)} more change nothing")
    for bug, result in results:
        if result["fate"] == "survived":
            console.print(f"survived: {bug.file}:{bug.line}: {bug.was}  ->  {bug.becomes}", markup=False)


def main(words: list[str] | None = None) -> int:
    """The command line; 0 where at least nine of ten bugs are caught."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeded_bugs", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--list", action="store_true", help="print the bugs and run nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results so far; read again on the next start")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    options = parser.parse_args(words)
    chosen = drawn(TREE, options.n, options.seed)
    if options.list:
        for bug in chosen:
            print(f"{bug.file}:{bug.line} {bug.kind}\n    {bug.was}\n    {bug.becomes}")
        return 0
    earlier = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.exists() else {}
    results = run(chosen, earlier, options)
    shown(results)
    seen = [result["fate"] for _, result in results if result["fate"] != "equivalent"]
    return int(seen.count("caught") < 0.9 * len(seen))


def run(chosen: list[Bug], earlier: dict[str, Any], options: argparse.Namespace) -> list[tuple[Bug, dict[str, Any]]]:
    """Bug and fate of all; `earlier` has the results of earlier runs; new ones are added to it."""
    known, now, results = equivalents(), [digest(TREE), *options.stages], []
    running.warm_up()
    with tempfile.TemporaryDirectory(prefix="seeded-bugs-") as folder:
        trials = Trials(running.copied(TREE, Path(folder) / "tree"), Imports(TREE), options.stages)
        for number, bug in enumerate(chosen, start=1):
            key = f"{bug.id} {bug.was}"
            before = earlier.get(key, {})
            if reason := known.get((bug.file, bug.was, bug.becomes)):
                result = {"fate": "equivalent", "because": reason}
            elif before.get("fate") == "caught" or before.get("tried") == now:
                result = before
            else:
                result = trials.tried(bug) | {"tried": now}
                earlier[key] = result | {"file": bug.file, "line": bug.line, "was": bug.was, "becomes": bug.becomes}
                keep(earlier, options.json)
            results.append((bug, result))
            print(f"{number}: {bug.file}:{bug.line} {bug.kind}: {result['fate']} {result.get('test', '')}", flush=True)
    return results


def keep(results: dict[str, Any], path: Path | None) -> None:
    """Write the results so far, so that a run that is stopped goes on from them."""
    if path:
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
        partial.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
