"""CPU seconds of a finished run of a table: each run alone, and the same runs as packs, in turns in one process.

    python -m benchmarks.packs TABLE [--scale cpu] [--only COLUMN ...] [--seeds 3] [--pack auto|K] [--rounds 2]
                              [--epochs N]

A run is the whole of it: building its objects, data, training, validation, callbacks, checkpoints, test and record. The
process has imported everything and has finished one run before the clock starts, as a worker of a table has after its
first run. The records of both are compared; they must be equal except for times.
"""

import argparse
import copy
import gc
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lit_fa import experiment
from lit_fa.jobs.packing import MOST, add_pack_option, packed
from lit_fa.outputs import writable_file, write_text
from lit_fa.packs import Lane, Pack
from lit_fa.spec.expand import Run, expand
from lit_fa.spec.table import load_table

TIMES = ("wall_time_s", "cpu_time_s", "started", "finished", "packed", "peak_memory_mib", "energy_j")


def chosen(path: Path, scale: str, seeds: int, only: Sequence[str]) -> list[Run]:
    """The runs of a table in these columns or rows."""
    table = load_table(path)
    runs = expand(table, replace(table.scale(scale), seeds=tuple(range(seeds))))
    return [run for run in runs if not only or {run.cell.row, run.cell.column} & {*only}]


def train(run: Run, folder: Path) -> None:
    """One run; its record goes to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    experiment.run(copy.deepcopy(run.config), {"path": str(folder / run.file_name), "id": run.id})


def alone(runs: Sequence[Run], folder: Path) -> None:
    """All runs, one after another."""
    for run in runs:
        train(run, folder)


def together(runs: Sequence[Run], folder: Path, most: int) -> None:
    """All runs, as packs of at most `most`; 0: auto."""
    ordered, packing = packed(runs, most, 1, lambda run: run.config)
    while ordered:
        group = packing.group(ordered[0])
        pack = [run for run in ordered[: packing.most] if packing.group(run) == group]
        lanes = [Lane(partial(train, run, folder)) for run in pack]
        Pack(lanes, measured=packing.together == "measured").run()
        for error in (lane.error for lane in lanes if lane.error):
            raise error
        ordered = ordered[len(pack) :]


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """File to record, without what a machine decides."""
    read = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    return {name: {k: v for k, v in record.items() if k not in TIMES} for name, record in read.items()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("table", type=Path)
    parser.add_argument("--scale", default="cpu")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    add_pack_option(parser)
    parser.set_defaults(pack=MOST)
    parser.add_argument("--epochs", type=int, help="of each run; default: as the table says")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.json:
        writable_file(arguments.json, "--json")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    runs = chosen(arguments.table, arguments.scale, arguments.seeds, arguments.only)
    for run in runs if arguments.epochs else ():
        run.config["trainer"]["max_epochs"] = arguments.epochs
    seconds: dict[str, list[float]] = {"alone": [], "packed": []}
    with tempfile.TemporaryDirectory() as temporary:
        train(runs[0], Path(temporary) / "first")
        gc.collect()
        gc.freeze()  # as in a worker
        for number in range(arguments.rounds):
            for name, work in (("alone", alone), ("packed", partial(together, most=arguments.pack))):
                folder, start = Path(temporary) / f"{name} {number}", time.process_time()
                work(runs, folder)
                seconds[name].append((time.process_time() - start) / len(runs))
            same = results(Path(temporary) / f"alone {number}") == results(Path(temporary) / f"packed {number}")
            assert same, "the records differ"
    gc.unfreeze()
    ratios = [one / other for one, other in zip(seconds["alone"], seconds["packed"], strict=True)]
    found = {"runs": len(runs), "seconds": seconds, "ratio": statistics.median(ratios), "records": "equal"}
    own, shared = (statistics.median(seconds[name]) for name in ("alone", "packed"))
    line = f"{len(runs)} runs: {own:.2f} s of CPU each alone, {shared:.2f} s packed: {found['ratio']:.2f} times fewer"
    Console().print(line, highlight=False)
    if arguments.json:
        write_text(arguments.json, json.dumps(found, indent=1) + "\n", "--json")


if __name__ == "__main__":
    main()
