"""CPU seconds of the commands that read records, by number of records; each in a new process, importing included.

    python -m benchmarks.reads [--sizes 500 5000] [--shape cells|seeds] [--only runs ...] [--rounds 1] [--json FILE]

The records are made in a temporary folder: a table of 50 cells with as many seeds as it takes (`seeds`), or of five
seeds with as many cells (`cells`), one figure, and in every record 13 metrics and 24 curves of 21 points (10 kB). They
are of the current commit. `json.loads` is a process that reads and parses the same files and does nothing else: it says
how fast the machine is at the time. `ratio` is the time at the largest size over that at the smallest.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as ConsoleTable

from lit_fa.config.yaml_reader import dump
from lit_fa.outputs import writable_file, write_text
from lit_fa.provenance import our_code
from lit_fa.spec.expand import Run, expand
from lit_fa.spec.table import load_table

POINTS, CURVES, CELLS, SEEDS = 21, 24, 50, 5
_BASE = {
    "trainer": {"max_epochs": 20, "accelerator": "cpu", "devices": 1, "logger": False},
    "model": {
        "class_path": "lit_fa.modules.Classifier",
        "init_args": {
            "network": "mlp",
            "network_args": {"hidden": [500]},
            "rule": {"class_path": "lit_fa.rules.FeedbackAlignment"},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.2}},
        },
    },
    "data": {"class_path": "datamodules.MNIST", "init_args": {"batch_size": 128}},
}
_PARSE = (
    "import json, sys; from pathlib import Path; "
    "print(len([json.loads(file.read_bytes()) for file in Path(sys.argv[1]).rglob('*.json')]))"
)
_COMMANDS = {
    "runs": ("runs", "{folder}"),
    "runs --where": ("runs", "{folder}", "--where", "row=FA 1"),
    "table list": ("table", "list", "{folder}"),
    "table report": ("table", "report", "{table}", "--draw"),
    "table report --write": ("table", "report", "{table}", "--write", "{pages}"),
    "table run --dry-run": ("table", "run", "{table}", "--dry-run"),
    "atlas": ("atlas", "{folder}", "--write", "{pages}"),
}


def main() -> None:
    """Print CPU seconds and peak memory of every command at every size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 5000], metavar="N", help="numbers of records")
    parser.add_argument("--shape", choices=("seeds", "cells"), default="seeds", help="which of the two grows")
    parser.add_argument("--only", nargs="+", choices=tuple(_COMMANDS), default=list(_COMMANDS), help="these commands")
    parser.add_argument("--rounds", type=int, default=1, help="the median of so many is printed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.json:
        writable_file(arguments.json, "--json")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.sizes, arguments.only, arguments.rounds, arguments.shape, Path(folder))
    Console(width=120).print(shown(result, arguments.sizes))
    if arguments.json:
        write_text(arguments.json, json.dumps(result, indent=1) + "\n", "--json")


def measure(sizes: list[int], names: list[str], rounds: int, shape: str, folder: Path) -> dict[str, dict[str, Any]]:
    """For every command, by size: the median of CPU seconds and the largest memory in MB."""
    files = {size: make(folder / str(size), size, shape) for size in sizes}
    seen: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for _ in range(rounds):
        for size, table in files.items():
            places = {"folder": str(table.parent), "table": str(table), "pages": str(folder / f"pages-{size}")}
            lines = {name: ["-m", "lit_fa", *(w.format(**places) for w in _COMMANDS[name])] for name in names}
            for name, words in {"json.loads": ["-c", _PARSE, str(table.parent)], **lines}.items():
                seen.setdefault(name, {}).setdefault(size, []).append(spent([sys.executable, *words]))
    return {
        name: {
            "cpu_s": {str(size): statistics.median(cpu for cpu, _ in by_size[size]) for size in sizes},
            "memory_mb": {str(size): max(memory for _, memory in by_size[size]) for size in sizes},
        }
        for name, by_size in seen.items()
    }


def spent(command: list[str]) -> tuple[float, float]:
    """CPU seconds, those of its own children included, and peak memory in MB of a command that succeeds."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} has failed ({process.returncode})")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def make(folder: Path, size: int, shape: str) -> Path:
    """A table with `size` records in `folder`; returns its file."""
    seeds, cells = (size // CELLS, CELLS) if shape == "seeds" else (SEEDS, size // SEEDS)
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").touch()  # marks the project's folder
    columns = {f"width {8 + i}": {"set": {"model.init_args.network_args.hidden": [8 + i]}} for i in range(5)}
    rate = "model.init_args.optimizer.init_args.lr"
    content: dict[str, Any] = {
        "paper": {"key": "reads", "table": "Table 1"},
        "base": "base.yaml",
        "metric": {"name": "test/accuracy", "unit": "%"},
        "also": [{"name": "val/accuracy", "unit": "%", "at": "best"}],
        "seeds": list(range(seeds)),
        "seeded": ["seed_everything"],
        "scales": {"cpu": {}},
        "grid": {"rows": {f"FA {i}": {"set": {rate: 0.01 * (i + 1)}} for i in range(cells // 5)}, "columns": columns},
        "figures": [{"file": "curves.png", "y": "val/accuracy", "x": "epoch", "lines": "column", "panels": "row"}],
    }
    if cells > CELLS:
        content["figures"] = []  # a figure of a thousand cells is no figure
    write_text(folder / "base.yaml", dump(_BASE))
    table = write_text(folder / "table1.yaml", dump(content))
    loaded = load_table(table)
    for name, text in _records(expand(loaded, loaded.scale("cpu"))):
        write_text(folder / "results" / "table1" / "cpu" / name, text)
    return table


def _records(runs: list[Run]) -> Iterator[tuple[str, str]]:
    """Names and contents of the records."""
    draw, commit = random.Random(0), our_code().commit
    keys = ["val/accuracy", *(f"align/gradient/layer{i}" for i in range(CURVES - 1))]
    for run in runs:
        curves = {key: [[469 * i, float(i), round(draw.uniform(1, 99), 4)] for i in range(POINTS)] for key in keys}
        metrics = {key: curve[-1][2] for key, curve in [*curves.items()][:12]} | {"test/accuracy": draw.uniform(90, 91)}
        record: dict[str, Any] = {
            "id": run.id,
            "paper": "reads",
            "table": "table1",
            "row": run.cell.row,
            "column": run.cell.column,
        }
        record |= {"scale": "cpu", "seed": run.seed, "commit": commit, "dirty": False, "status": "finished"}
        record |= {"schema": 2, "metrics": metrics, "curves": curves, "config": run.config, "wall_time_s": 9.0}
        record |= {"cpu_time_s": 8.0, "hardware": {"cpu": "a cpu", "cores": 2, "threads": 1}, "outside": {}}
        yield run.file_name, json.dumps(record)


def shown(result: dict[str, dict[str, Any]], sizes: list[int]) -> ConsoleTable:
    """The measurements as a table."""
    view = ConsoleTable("command", *(f"{size} records" for size in sizes), "ratio")
    for name, one in result.items():
        cpu, memory = one["cpu_s"], one["memory_mb"]
        texts = [f"{cpu[str(size)]:.2f} s, {memory[str(size)]:.0f} MB" for size in sizes]
        view.add_row(name, *texts, f"{cpu[str(max(sizes))] / cpu[str(min(sizes))]:.1f}")
    return view


if __name__ == "__main__":
    main()
