"""Bugs drawn by a seed from all of `functional`, `layers` and `rules`: which test catches each?

    python -m benchmarks.seeded_bugs [--seed 0] [--n 50] [--list] [--json FILE] [--stages near contract rest]

A bug is a sign, a transposition, a factor, a `detach`, a comparison, an index or a term (`mutations.KINDS`), as many of
each. It is put into a copy of the tree. The tests near its file run first, then the contract's with the rules that use
the file, then the rest; the first that fails catches it. Nothing is written into the working tree. With `--json` a run
that was stopped goes on; a bug that survived is tried again when the tests have changed. Bugs that change nothing
anybody could see are named, with the reason, in `equivalent.yaml`.
"""

import argparse
import hashlib
import json
import random
import tempfile
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.seeded_bugs import running
from benchmarks.seeded_bugs.mutations import KINDS, Bug, apply, bugs, valid
from benchmarks.seeded_bugs.tests_of import Imports, stages

TREE = Path(__file__).parents[2]
FOLDERS = ("lit_fa/functional", "lit_fa/layers", "lit_fa/rules")
STAGES = ("near", "contract", "rest")
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")
HANGS_AFTER = (300, 60)  # seconds of processor time: of a stage at least, and of each of its files


def drawn(tree: Path, number: int, seed: int) -> list[Bug]:
    """So many bugs: every kind in turn, one a line, from all files alike."""
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
    """(file, line, line with the bug) to the reason why nobody could see it."""
    known = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) or []
    return {(entry["file"], entry["was"], entry["becomes"]): entry["because"] for entry in known}


def digest(tree: Path) -> str:
    """Of all tests: what survived the old ones may not survive the new."""
    found = hashlib.sha256()
    for path in sorted((tree / "tests").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def tried(bug: Bug, copy: Path, imports: Imports, asked: list[str]) -> dict:
    """What becomes of one bug in a copy: caught, by which test of which stage, or survived; the copy is sound again."""
    path = copy / bug.file
    sound = path.read_bytes()
    reaching = frozenset(name.removesuffix(".py").replace("/", ".") for name in imports.distances(bug.file))
    plan, spent = stages(imports, bug.file), 0.0
    running.stamp(path, apply(bug, sound))
    try:
        for stage in asked:
            if plan[stage]:
                limit = max(HANGS_AFTER[0], HANGS_AFTER[1] * len(plan[stage]))
                failure, seconds = running.first_failure(copy, plan[stage], reaching, limit)
                spent += seconds
                if failure:
                    return {"fate": "caught", "stage": stage, **failure, "seconds": round(spent, 1)}
    finally:
        running.stamp(path, sound)
    return {"fate": "survived", "stages": asked, "seconds": round(spent, 1)}


def shown(found: list[tuple[Bug, dict]]) -> None:
    """The table, and the share."""
    table = Table("place", "kind", "line, and what became of it", "fate")
    for bug, result in found:
        by = result.get("test") or result.get("because") or ", ".join(result.get("stages", []))
        row = (f"{bug.file}:{bug.line}", bug.kind, f"{bug.was}\n{bug.becomes}", f"{result['fate']}\n{by}")
        table.add_row(*map(escape, row))
    console = Console()
    console.print(table)
    seen = [result["fate"] for _, result in found if result["fate"] != "equivalent"]
    console.print(f"{seen.count('caught')} of {len(seen)} caught, {len(found) - len(seen)} more change nothing")
    for bug, result in found:
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
    kept = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.exists() else {}
    results = run(chosen, kept, options)
    shown(results)
    seen = [result["fate"] for _, result in results if result["fate"] != "equivalent"]
    return int(seen.count("caught") < 0.9 * len(seen))


def run(chosen: list[Bug], kept: dict, options: argparse.Namespace) -> list[tuple[Bug, dict]]:
    """Bug and fate of all; `kept` is what earlier runs found, and is added to."""
    known, tests, imports, found = equivalents(), digest(TREE), Imports(TREE), []
    running.warm_up()
    with tempfile.TemporaryDirectory(prefix="seeded-bugs-") as folder:
        copy = running.copied(TREE, Path(folder) / "tree")
        for number, bug in enumerate(chosen, start=1):
            key = f"{bug.id} {bug.was}"
            before = kept.get(key, {})
            if reason := known.get((bug.file, bug.was, bug.becomes)):
                result = {"fate": "equivalent", "because": reason}
            elif before.get("fate") == "caught" or (before.get("tests"), before.get("stages")) == (
                tests,
                options.stages,
            ):
                result = before
            else:
                result = tried(bug, copy, imports, options.stages) | {"tried": [tests, *options.stages]}
                kept[key] = result | {"file": bug.file, "line": bug.line, "was": bug.was, "becomes": bug.becomes}
            found.append((bug, result))
            print(f"{number}: {bug.file}:{bug.line} {bug.kind}: {result['fate']} {result.get('test', '')}", flush=True)
            if options.json:
                partial = options.json.with_suffix(".part")
                partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
                partial.replace(options.json)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
