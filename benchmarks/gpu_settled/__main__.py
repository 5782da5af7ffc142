"""All measurements on one CUDA device, within a time limit; the same command continues a stopped session.

    python -m benchmarks.gpu_settled [--out DIR] [--limit SECONDS] [--only TEXT] [--epochs N] [--eager] [--tiny]

In this order: times of steps; seconds to 90 % on CIFAR-10 for BP, FA and DFA; packed runs (`packed`); SSA's small
networks and table 2 at the full schedule, BP, DFA and SSA first, then the other rules; then the convolutional networks
of CCL, Mono-Forward, PEPITA, DLL and EBD, and their MLPs on CIFAR. Data and augmentation are on the device; on a
graphics card training is in bf16, channels_last and compiled, except for packed runs, which are in float32.
`results.json`, `results.md` and a record for each finished run are in the folder.
CIFAR-10 is read from LIT_FA_DATA; a JPEG copy is marked in the records. `--only ccl-conv` does the runs of one table
alone, `--epochs` shortens the schedule, `--tiny` is a test on synthetic images.
"""

import argparse
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.gpu_settled import packed, report, steps
from benchmarks.gpu_settled.configs import ROOT, Item
from benchmarks.gpu_settled.plan import FIRST, PLAN, RACE, TINY
from benchmarks.gpu_settled.training import OutOfTime, race, train, with_epochs
from benchmarks.step import RULES as ALL_RULES
from lit_fa.outputs import write_text

T = TypeVar("T")
TARGET = 90.0  # percent
RACE_EPOCHS = 30
RULES = [rule for rule in ALL_RULES if rule not in ("flfa", "flfa_all")]  # those are of federated rounds
BATCH, ROUNDS = 128, 30
TINY_SHAPE = {"image_shape": [3, 32, 32], "n_train": 16, "n_test": 8, "batch_size": 8}
TINY_DATA = {"class_path": "datamodules.Synthetic", "init_args": TINY_SHAPE}
TINY_NETWORK = {"network": "conv3_32_64_128", "network_args": {}}


class Session:
    """The results of all calls, in `state.json`; each is saved when it is complete."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """See the class."""
        self.arguments, self.out = arguments, arguments.out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.end = time.monotonic() + arguments.limit
        self.file = self.out / "state.json"
        empty: dict[str, Any] = {
            "target": TARGET,
            "peak_flops": None,
            "steps": [],
            "race": [],
            "packs": [],
            "packed_table": None,
            "runs": [],
            "failed": [],
        }
        self.state: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else empty

    @property
    def is_late(self) -> bool:
        """Whether the time limit is reached."""
        return time.monotonic() > self.end

    def save(self) -> None:
        """Write state and report."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json.dumps(self.state, allow_nan=False))
        report.write(self.out, self.state, [item.key for item in self.items if not self.done(item)])

    @property
    def items(self) -> list[Item]:
        """The runs, in order."""
        plan = PLAN[: len(FIRST)] + TINY if self.arguments.tiny else PLAN
        return [item for item in plan if all(part in item.key for part in self.arguments.only)]

    def done(self, item: Item) -> bool:
        """Whether the run has ended or failed."""
        return any(entry["key"] == item.key for entry in self.state["runs"]) or any(
            line.startswith(f"{item.key}:") for line in self.state["failed"]
        )

    def config(self, item: Item) -> dict[str, Any]:
        """The config of a run, with the data at hand."""
        arguments = self.arguments
        if arguments.tiny and item in TINY:
            return item.config("smoke")
        config = item.config()
        if arguments.tiny:
            config["data"] = TINY_DATA
            config["model"]["init_args"] |= TINY_NETWORK
        elif config["data"]["class_path"] == "datamodules.CIFAR10" and has_jpeg_copy():
            config["data"]["init_args"]["jpeg"] = 75
        epochs = 1 if arguments.tiny else arguments.epochs
        return with_epochs(config, epochs) if epochs else config

    def measure_steps(self) -> None:
        """Times of steps on the networks that are not measured yet."""
        tiny, state = self.arguments.tiny, self.state
        state["peak_flops"] = state["peak_flops"] or steps.peak_flops(self.device, 256 if tiny else 8192)
        for network in steps.NETWORKS:
            if self.is_late or any(row["network"] == network for row in state["steps"]):
                continue
            batch, rounds, rules = (2, 1, ["dfa"]) if tiny else (BATCH, ROUNDS, RULES)
            size = 32 if tiny else None
            state["steps"] += steps.rows_of(network, rules, batch, rounds, state["peak_flops"], self.device, size)
            self.save()

    def measure_race(self) -> None:
        """Seconds to the target for BP, FA and DFA."""
        for item in RACE:
            if self.is_late or any(row["rule"] == item.row for row in self.state["race"]):
                continue
            epochs, config = 1 if self.arguments.tiny else RACE_EPOCHS, self.config(item)
            result, reason = self.tried(partial(_race, config, epochs))
            self.state["race"].append({"rule": item.row, **(result or {"seconds": None, "reason": reason})})
            self.save()

    def measure_packs(self) -> None:
        """Run-steps a second of packs; then all rows and seeds of a table as one."""
        tiny, state = self.arguments.tiny, self.state
        parts: dict[str, Callable[[bool], Any]] = {
            "packs": lambda _: packed.rates(tiny=tiny),
            "packed_table": lambda _: packed.table(self.out, 1 if tiny else self.arguments.epochs, tiny=tiny),
        }
        for part, work in parts.items():
            if self.is_late or state.get(part) or any(line.startswith(f"{part}:") for line in state["failed"]):
                continue
            state[part], reason = self.tried(work)
            state["failed"] += [f"{part}: {reason}"] if reason else []
            self.save()

    def train_all(self) -> None:
        """The runs, until the time limit."""
        for item in self.items:
            if self.is_late or self.done(item):
                continue
            config = self.config(item)
            record, reason = self.tried(partial(self.trained, item, config))
            if record is None:
                self.state["failed"].append(f"{item.key}: {reason}")
            else:
                self.state["runs"].append(_entry(item, config, record))
            self.save()

    def trained(self, item: Item, config: dict[str, Any], compiled: bool) -> dict[str, Any]:
        """The record of one run."""
        return train(item, config, self.out, self.end, compiled=compiled)

    def tried(self, work: Callable[[bool], T]) -> tuple[T | None, str]:
        """The result of `work(compiled)`: compiled on a graphics card, and without compilation if that fails."""
        reason = ""
        for compiled in (True, False) if self.device.type == "cuda" and not self.arguments.eager else (False,):
            try:
                return work(compiled), ""
            except OutOfTime:
                raise
            except Exception as error:  # one failed run must not end the session
                traceback.print_exc()
                reason = " ".join(str(error).split())[:200] or type(error).__name__
        return None, reason


def _race(config: dict[str, Any], epochs: int, compiled: bool) -> dict[str, Any]:
    return race(config, TARGET, epochs, compiled=compiled)


def _entry(item: Item, config: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The entry of a run in the report."""
    entry = {key: record[key] for key in ("row", "column", "seed", "wall_time_s", "status", "compiled")}
    finished = record["status"] == "finished"
    jpeg = config["data"]["init_args"].get("jpeg")
    return entry | {
        "key": item.key,
        "published": item.published,
        "accuracy": record["metrics"].get("test/accuracy") if finished else None,
        "epochs": config["trainer"]["max_epochs"],
        "images": config["data"]["class_path"].rpartition(".")[2] + (f", JPEG copy ({jpeg})" if jpeg else ""),
    }


def has_jpeg_copy() -> bool:
    """Whether the data root has CIFAR-10 as a JPEG copy."""
    from lit_fa.datamodules.data_root import data_root

    return (data_root(None) / "npz" / "cifar10_jpeg.npz").is_file()


def main(words: list[str] | None = None) -> int:
    """Do the remaining work; returns 0 if all is done, 1 if the time limit was reached before."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_settled", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "scratch" / "gpu_settled")
    parser.add_argument("--limit", type=float, default=540.0, metavar="SECONDS")
    parser.add_argument("--epochs", type=int, metavar="N")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="runs whose name has TEXT in it")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--tiny", action="store_true", help="a test on synthetic images")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    session = Session(parser.parse_args(words))
    if not session.items:
        parser.error(f"--only {' '.join(session.arguments.only)}: no run has this in its name, such as {PLAN[0].key}")
    torch.set_float32_matmul_precision("high")
    try:
        if not session.arguments.only:
            session.measure_steps()
            session.measure_race()
            session.measure_packs()
        session.train_all()
    except OutOfTime:
        print("the time limit is reached; the same command continues")
    session.save()
    print((session.out / "results.md").read_text(encoding="utf-8"))
    return int(session.is_late and any(not session.done(item) for item in session.items))


if __name__ == "__main__":
    sys.exit(main())
