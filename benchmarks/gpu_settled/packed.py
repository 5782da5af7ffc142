"""Packed runs on one device: the MLP of `foundations/mnist_mlp`, all rows and five seeds as one program.

First the run-steps a second: of one process, of `PROCESSES` processes side by side, and of a pack of `LANES` runs, by
explicit steps (the MLP) and mapped (LeNet). Then the table itself at full scale. A run is Lightning's trainer with
`Classifier`, float32, with data on the device; a step is logged every 50 steps.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks.gpu_settled.configs import ROOT, built, resolved, table_of
from lit_fa.callbacks.run_record import RunRecord
from lit_fa.datamodules.data_root import data_root

LANES, PROCESSES, SEEDS, BATCH = 32, 16, 5, 128
STEPS, TINY_STEPS = 1000, 20  # of an epoch; the second one is measured
TABLE = "foundations/mnist_mlp.yaml"
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
NETWORKS: dict[str, dict[str, Any]] = {
    "MLP, written": {"network": "mlp", "network_args": {"hidden": [500]}},
    "LeNet, mapped": {"network": "lenet"},
}


class Clock(L.Callback):
    """Seconds of the second epoch of a run, between the times `began` and `ended`; it waits for `ready` before.

    Args:
        ready: called before the second epoch.
    """

    needs_every_batch = False

    def __init__(self, ready: Callable[[], None] = lambda: None):
        """See the class."""
        self.ready, self.began, self.ended = ready, 0.0, 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start before the second epoch."""
        if trainer.current_epoch == 1:
            self.ready()
            self.began = _now(pl_module.device)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after it."""
        if trainer.current_epoch == 1:
            self.ended = _now(pl_module.device)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def fit(config: dict[str, Any], callbacks: list[L.Callback], lane: Any = None) -> tuple[L.Trainer, Any]:
    """Train a config; in a pack with its lane."""
    L.seed_everything(config["seed_everything"], verbose=False)
    model, data = built(config, fast=False, compiled=False)
    shared: Any = data
    if lane is not None:
        from lit_fa.packs.observer import JoinPack

        shared.shares, callbacks = True, [JoinPack(lane), *callbacks]
    options = {key: value for key, value in config["trainer"].items() if key not in ("callbacks", *QUIET)}
    accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    trainer = L.Trainer(**options | QUIET | {"accelerator": accelerator, "devices": 1}, callbacks=callbacks)
    trainer.fit(model, data)
    return trainer, data


def bare(name: str, seed: int, *, tiny: bool) -> dict[str, Any]:
    """A run of two epochs without validation, on synthetic images: feedback alignment with plain SGD."""
    steps, batch = (TINY_STEPS, 4) if tiny else (STEPS, BATCH)
    options = {**NETWORKS[name], "rule": {"class_path": "lit_fa.rules.FeedbackAlignment"}}
    images = {"image_shape": [1, 28, 28], "n_train": steps * batch, "n_test": batch, "batch_size": batch, "seed": seed}
    return {
        "seed_everything": seed,
        "trainer": {"max_epochs": 2, "log_every_n_steps": 50, "limit_val_batches": 0, "num_sanity_val_steps": 0},
        "model": {"init_args": options},
        "data": {"class_path": "datamodules.Synthetic", "init_args": images},
    }


def alone(name: str, *, tiny: bool, ready: Callable[[], None] = lambda: None) -> float:
    """Run-steps a second of one run in this process."""
    clock = Clock(ready)
    trainer, _ = fit(bare(name, 0, tiny=tiny), [clock])
    return (trainer.global_step // 2) / (clock.ended - clock.began)


def packed(name: str, lanes: int, *, tiny: bool) -> float:
    """Run-steps a second of a pack in this process."""
    from lit_fa.packs import Lane, Pack, current

    def run(seed: int, clock: Clock) -> None:
        fit(bare(name, seed, tiny=tiny), [clock], current())

    clocks = [Clock() for _ in range(lanes)]
    pack = Pack([Lane(partial(run, seed, clock)) for seed, clock in enumerate(clocks)], maps=True)
    pack.run()
    for error in (lane.error for lane in pack.lanes if lane.error):
        raise error
    steps = TINY_STEPS if tiny else STEPS
    return lanes * steps / (max(c.ended for c in clocks) - min(c.began for c in clocks))


def processes(name: str, number: int, *, tiny: bool) -> float:
    """Run-steps a second of processes side by side, together; they measure at the same time."""
    words = [sys.executable, "-m", __spec__.name, name, *(["--tiny"] if tiny else [])]
    pipe = subprocess.PIPE
    options: dict[str, Any] = {"stdin": pipe, "stdout": pipe, "text": True, "encoding": "utf-8"}
    started = [subprocess.Popen(words, cwd=ROOT, **options) for _ in range(number)]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", f"a process of {name} has ended before its second epoch"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return sum(float(process.communicate(timeout=300)[0].split()[-1]) for process in started)
    finally:
        for process in started:
            process.kill()


def rates(*, tiny: bool) -> list[dict[str, Any]]:
    """A row for each network: run-steps a second of one process, of many, and of a pack."""
    lanes, number = (3, 2) if tiny else (LANES, PROCESSES)
    rows = []
    for name in NETWORKS:
        row: dict[str, Any] = {"network": name, "lanes": lanes, "processes": number}
        parts: dict[str, Callable[[], float]] = {
            "one": partial(alone, name, tiny=tiny),
            "many": partial(processes, name, number, tiny=tiny),
            "packed": partial(packed, name, lanes, tiny=tiny),
        }
        for part, work in parts.items():
            row[part] = round(work(), 1)
        rows.append(row | {"ratio": round(row["packed"] / row["one"], 2)})
    return rows


def cells(epochs: int | None, *, tiny: bool) -> dict[str, dict[str, Any]]:
    """Name to config of every row and seed of the table at full scale."""
    scale, found = "smoke" if tiny else "full", {}
    for cell in table_of(TABLE)["cells"]:
        for seed in range(2 if tiny else SEEDS):
            config = resolved(TABLE, cell["set"], scale, seed)
            config["trainer"] |= {"max_epochs": epochs} if epochs else {}
            if not tiny and not (data_root(None) / "MNIST").is_dir():
                config["data"] = bare("MLP, written", seed, tiny=False)["data"]
            found[f"{cell['row']} seed {seed}"] = config
    return found


def table(out: Path, epochs: int | None, *, tiny: bool) -> dict[str, Any]:
    """All rows and seeds as one pack; the record of each run is in `out/records`."""
    from lit_fa.packs import Lane, Pack, current

    configs = cells(epochs, tiny=tiny)

    def run(name: str, config: dict[str, Any]) -> dict[str, Any]:
        path, lane = out / "records" / f"packed {name}.json", current()
        recorded = RunRecord(str(path), {"row": name.rpartition(" seed ")[0], "config": config}, finish_after="fit")
        assert lane is not None
        recorded.clocks = (lane.wall, lane.cpu)
        fit(config, [recorded], lane)
        return dict(json.loads(path.read_text(encoding="utf-8")))

    start = time.monotonic()
    pack = Pack([Lane(partial(run, name, config)) for name, config in configs.items()])
    pack.run()
    seconds = time.monotonic() - start
    for error in (lane.error for lane in pack.lanes if lane.error):
        raise error
    records = {name: lane.result for name, lane in zip(configs, pack.lanes, strict=True)}
    images = next(iter(configs.values()))["data"]["class_path"].rpartition(".")[2]
    accuracies = {name: record["metrics"].get("val/accuracy") for name, record in records.items() if record}
    lanes = max(record["packed"]["lanes"] for record in records.values() if record)
    return {"seconds": round(seconds, 1), "runs": len(configs), "lanes": lanes, "images": images} | {
        "accuracies": accuracies
    }


def _wait() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    print(alone(sys.argv[1], tiny="--tiny" in sys.argv, ready=_wait))
