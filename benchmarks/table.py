"""Where the CPU seconds of a table's runs go, and how many they were at another commit.

    python -m benchmarks.table TABLE [--scale cpu] [--only row=FA] [--runs 1] [--set trainer.max_epochs=1] [--json FILE]
    python -m benchmarks.table TABLE ... --against REVISION [--pack auto] [--rounds 2]

Without `--against` the runs are trained here, one after another, as a worker of `table run` trains them, but their
records go to a temporary folder; for the parts of their time see `benchmarks.worker_time`.

With `--against` the same runs are trained at the other commit, which is checked out into a temporary folder, and here,
in turns, each time in a new process; with `--pack` they are trained here as packs as well. The first run of a process
has one epoch and does not count. The records' metrics and curves are compared.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table as ConsoleTable

from benchmarks import worker_time
from benchmarks.worker_time import PARTS, Sampler
from lit_fa.config.yaml_reader import load
from lit_fa.experiment import run
from lit_fa.jobs.packing import add_pack_option
from lit_fa.outputs import writable_file, write_text
from lit_fa.spec.command import read_only
from lit_fa.spec.expand import Run, expand
from lit_fa.spec.overrides import assign
from lit_fa.spec.table import load_table

ROOT = Path(__file__).resolve().parents[1]


class Steps(L.Callback):
    """Counts optimiser steps."""

    count = 0

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Of a whole run."""
        self.count += trainer.global_step


def measure(runs: list[Run]) -> dict[str, Any]:
    """Train the runs; CPU seconds by part, number of steps, and CPU seconds of each run."""
    steps, sampler, each = Steps(), Sampler(), []
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(runs):
            before = time.process_time()
            with sampler:
                run(one.config, {"path": str(Path(folder) / f"{number}.json"), "id": one.id, "seed": one.seed}, [steps])
            each.append(round(time.process_time() - before, 3))
    parts = {part: round(sampler.seconds[part], 3) for part in PARTS}
    trained = sum(parts.values()) - parts["import"]
    return {"parts_s": parts, "runs_s": each, "steps": steps.count, "over_step": round(trained / parts["step"], 3)}


def in_turns(runs: list[Run], trees: dict[str, tuple[Path, int]], rounds: int) -> dict[str, Any]:
    """Train the runs in each tree, in turns.

    Args:
        runs: the same for all.
        trees: from a name to the folder with `lit_fa`, and the value of `--pack`; the first is what the others are
            compared with.
        rounds: of turns.

    Returns:
        For each name the CPU seconds of a run and of its parts, and how many times fewer they are than the first's:
        the median over rounds; and whether its records equal those of the first.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for _ in range(rounds):
        for name, (tree, pack) in trees.items():
            found[name].append(_trained(runs, tree, pack))
    first = next(iter(found.values()))
    return {
        name: {
            "first_s": statistics.median(one["first_s"] for one in turns),
            "run_s": statistics.median(one["run_s"] for one in turns),
            "fewer": statistics.median(a["run_s"] / b["run_s"] for a, b in zip(first, turns, strict=True)),
            "parts_s": {part: _median_of(turns, part) / len(runs) for part in turns[0]["parts_s"]},
            "equal": all(one["records"] == first[0]["records"] for one in turns),
        }
        for name, turns in found.items()
    }


def _median_of(turns: list[dict[str, Any]], part: str) -> float:
    return statistics.median(one["parts_s"][part] for one in turns)


def _trained(runs: list[Run], tree: Path, pack: int) -> dict[str, Any]:
    """What a new process with the code of `tree` has measured."""
    task = {"pack": pack, "runs": [{"config": one.config, "id": one.id, "seed": one.seed} for one in runs]}
    paths = {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        file = write_text(Path(folder) / "task.json", json.dumps(task))
        command = [sys.executable, worker_time.__file__, str(file)]
        done = subprocess.run(command, cwd=folder, env=os.environ | paths, check=False, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"the runs in {tree} have failed ({done.returncode})")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """The tree of another commit, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", revision], check=False, capture_output=True)
        if archive.returncode:
            raise SystemExit(f"--against {revision}: {archive.stderr.decode().strip()}")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def chosen(options: argparse.Namespace) -> list[Run]:
    """The runs, with the changes of `--set`."""
    table = load_table(options.table)
    runs = expand(table, table.scale(options.scale), only=read_only(options.only))[: options.runs]
    for one in runs:
        for change in options.changes:
            key, _, value = change.partition("=")
            assign(one.config, key, load(value), "--set")
    return runs


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--scale", default=None)
    parser.add_argument("--only", action="append", default=[], metavar="row=FA,column=32")
    parser.add_argument("--runs", type=int, default=1, help="the first so many")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="shorter runs")
    parser.add_argument("--against", metavar="REVISION", help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=2, help="of turns, with --against")
    add_pack_option(parser)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.pack != 1 and not options.against:
        parser.error("--pack is compared with the same runs alone: add --against REVISION, which may be HEAD")
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    runs = chosen(options)
    title = "; ".join(one.label for one in runs)
    result = _compared(runs, options, title) if options.against else _measured(runs, title)
    if options.json:
        facts = {"table": str(options.table), "runs": [one.label for one in runs], "set": options.changes}
        write_text(options.json, json.dumps(facts | result, indent=1) + "\n", "--json")


def _measured(runs: list[Run], title: str) -> dict[str, Any]:
    result = measure(runs)
    _print(title, {"CPU s": result["parts_s"]})
    print(f"{result['steps']} steps; without imports {result['over_step']:.2f} times the bare steps")
    return result


def _compared(runs: list[Run], options: argparse.Namespace, title: str) -> dict[str, Any]:
    with checked_out(options.against) as tree:
        trees = {options.against: (tree, 1), "here": (ROOT, 1)}
        trees |= {"packed": (ROOT, options.pack)} if options.pack != 1 else {}
        result = in_turns(runs, trees, options.rounds)
    _print(title, {name: {"a run": one["run_s"], **one["parts_s"]} for name, one in result.items()})
    for name, one in [*result.items()][1:]:
        records = "equal" if one["equal"] else "different"
        print(f"{name}: {one['fewer']:.2f} times fewer CPU seconds a run than {options.against}; {records} records")
    return {"against": options.against, "rounds": options.rounds, "turns": result}


def _print(title: str, columns: dict[str, dict[str, float]]) -> None:
    view = ConsoleTable("part", *columns, title=title)
    rows: Sequence[str] = [*next(iter(columns.values()))]
    for row in rows:
        view.add_row(row, *(f"{column[row]:.2f}" for column in columns.values()))
    Console(width=100).print(view)


if __name__ == "__main__":
    main()
