"""Cost of logging and of measuring callbacks: MLP 784-1024x3-10 under feedback alignment, batch 128, default options.

    python -m benchmarks.logging_cost [--rounds 7] [--json FILE]

Three fits alternate in every round: without a logger, with an offline W&B run (`ResumableWandbLogger`, `WandbRun`), and
with every measuring callback as well. Each is one epoch of MNIST's length, 468 steps of synthetic digits, with a
validation before and after. The clock runs from the eleventh step to the end of training. This includes the end of the
epoch, at which callbacks measure, but not the one-time costs: W&B's start, the first measurement, figures and final
table. `ratio` is the median over rounds of the time of a step relative to that without a logger in the same round, in
wall time and in CPU time of this process (which other processes disturb less, but which excludes W&B's process).
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import track

from benchmarks.overhead import WARM_UP, classifier
from lit_fa import callbacks
from lit_fa.datamodules import Synthetic
from lit_fa.outputs import writable_file, write_text

STEPS = 468
MEASURING = [
    callbacks.WeightAlignment,
    callbacks.GradientAlignment,
    callbacks.ConservationPotential,
    callbacks.AlignmentDominance,
    callbacks.TrainingScore,
    callbacks.FactorSpectrum,
    callbacks.TrainingCost,
    callbacks.Figures,
    callbacks.RunRecord,
]
KINDS = ("no logger", "W&B", "W&B and all callbacks")


class Clock(L.Callback):
    """Seconds from the end of the warm-up to the end of training."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Start the clock after the warm-up."""
        if trainer.global_step == WARM_UP:
            self.start = now()

    def on_train_end(self, *_: object) -> None:
        """Read the clock, after all other callbacks."""
        (wall, cpu), (wall_start, cpu_start) = now(), self.start
        self.seconds = wall - wall_start, cpu - cpu_start


def now() -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process."""
    return time.perf_counter(), time.process_time()


def seconds_a_step(kind: str) -> tuple[float, float]:
    """Wall and CPU seconds per step of a fit of one epoch, in its own folder."""
    with tempfile.TemporaryDirectory() as folder:
        wandb = kind != KINDS[0]
        logger = callbacks.ResumableWandbLogger(offline=True, folder=folder, dir=folder) if wandb else None
        shown = [callbacks.WandbRun()] if wandb else []
        measuring = [build() for build in MEASURING] if kind == KINDS[2] else []
        clock = Clock()
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=logger or False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*measuring, *shown, clock],
        )
        trainer.fit(classifier("fa"), Synthetic(n_train=128 * STEPS, n_test=1024, batch_size=128, flatten=True))
        if logger:
            logger.finish()
    wall, cpu = clock.seconds
    return wall / (STEPS - WARM_UP), cpu / (STEPS - WARM_UP)


def row(kind: int, clock: int, rounds: list[list[tuple[float, float]]]) -> dict[str, Any]:
    """Median milliseconds per step, and median and quartiles of the ratio to a step without a logger."""
    ratios = [fits[kind][clock] / fits[0][clock] for fits in rounds]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    ms = 1e3 * statistics.median(fits[kind][clock] for fits in rounds)
    ratio = statistics.median(ratios)
    name = ("wall", "CPU of this process")[clock]
    return {"kind": KINDS[kind], "clock": name, "ms": ms, "ratio": ratio, "low": low, "high": high}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    os.environ["WANDB_SILENT"] = "true"
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    seconds_a_step(KINDS[1])  # starts W&B's service
    rounds = [[seconds_a_step(kind) for kind in KINDS] for _ in track(range(options.rounds), transient=True)]
    rows = [row(kind, clock, rounds) for kind in range(len(KINDS)) for clock in range(2)]
    for entry in rows:
        line = "{kind}, {clock}: {ms:.2f} ms a step, ratio {ratio:.3f} ({low:.3f}-{high:.3f})"
        Console().print(line.format(**entry), highlight=False)
    if options.json:
        write_text(
            options.json, json.dumps({"rows": rows, "torch": torch.__version__, "threads": 1}, indent=1), "--json"
        )


if __name__ == "__main__":
    main()
