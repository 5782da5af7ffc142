"""Where the CPU seconds of a table's runs go: import, set-up, data, step, Trainer, validation, callbacks, and the rest.

    python -m benchmarks.table TABLE [--scale cpu] [--only row=FA] [--runs 1] [--set trainer.max_epochs=1] [--json FILE]

The runs are trained here, one after another, as a worker of `table run` trains them, but their records go to a
temporary folder. A timer of CPU time interrupts the process every 2 ms and looks at the stack; the time since the last
sample belongs to the first of the parts below that a frame of the stack names. `bare` is everything over the step.

    import       modules, before the first run or within one
    checkpoint   writing and reading it
    validation   of held-out and test data, their loading included
    callbacks    ours and Lightning's
    logging      the module's `log`, and what the Trainer makes of it
    data         batches of training and their way to the device
    step         the rule's scalar, its gradients, the optimiser's step
    Trainer      Lightning's loop and the module around the step
    set-up       reading the config, building network, rule, data and Trainer, ending the run
"""

import argparse
import json
import logging
import signal
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table as ConsoleTable

from lit_fa.config.yaml_reader import load
from lit_fa.experiment import run
from lit_fa.outputs import writable_file, write_text
from lit_fa.spec.command import read_only
from lit_fa.spec.expand import Run, expand
from lit_fa.spec.overrides import assign
from lit_fa.spec.table import load_table

INTERVAL = 0.002  # seconds of CPU time; the system's clock may be coarser
PARTS: dict[str, tuple[str, ...]] = {  # from a part to `end of a file` or `end of a file:function`, in order
    "import": ("<frozen importlib._bootstrap>",),
    "checkpoint": ("lit_fa/checkpoints/lightning_io.py", "trainer.py:Trainer.save_checkpoint", "model_checkpoint.py"),
    "validation": ("evaluation_loop.py:_EvaluationLoop.run",),
    "callbacks": ("/callbacks/",),
    "logging": ("logger_connector.py", "result.py", "core/module.py:LightningModule.log", "/loggers/"),
    "data": (
        "/datamodules/",
        "fetchers.py",
        "combined_loader.py",
        "core/module.py:LightningModule._apply_batch_transfer_handler",
    ),
    "step": ("modules/gradients.py:Gradients.__call__", "/torch/optim/", "rules/learner.py", "/lit_fa/written/"),
    "Trainer": ("fit_loop.py:_FitLoop.run", "restart.py:FitLoop.run"),
    "set-up": ("",),
}


class Sampler:
    """CPU seconds by part."""

    def __init__(self) -> None:
        """Nothing has been measured but the start of the process."""
        self.seconds = defaultdict[str, float](float, {"import": time.process_time()})
        self.last = time.process_time()

    def __enter__(self) -> "Sampler":
        """Begin to sample."""
        self.last = time.process_time()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.seconds["set-up"] += time.process_time() - self.last

    def _sample(self, _: int, frame: FrameType | None) -> None:
        places: list[str] = []
        while frame is not None:
            places.append(f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        now = time.process_time()
        self.seconds[part_of(places)] += now - self.last
        self.last = now


def part_of(places: list[str]) -> str:
    """The part of a stack of `file:function`.

    >>> part_of(["/a/torch/optim/sgd.py:SGD.step", "/a/loops/fit_loop.py:_FitLoop.run"])
    'step'
    """
    return next(part for part, marks in PARTS.items() if any(mark in place for mark in marks for place in places))


class Steps(L.Callback):
    """Counts optimiser steps."""

    count = 0

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Of a whole run."""
        self.count += trainer.global_step


def measure(runs: list[Run], changes: list[str]) -> dict[str, Any]:
    """Train the runs; CPU seconds by part, number of steps, and CPU seconds of each run."""
    steps, sampler, each = Steps(), Sampler(), []
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(runs):
            for change in changes:
                key, _, value = change.partition("=")
                assign(one.config, key, load(value), "--set")
            before = time.process_time()
            with sampler:
                run(one.config, {"path": str(Path(folder) / f"{number}.json"), "id": one.id, "seed": one.seed}, [steps])
            each.append(round(time.process_time() - before, 3))
    parts = {part: round(sampler.seconds[part], 3) for part in PARTS}
    trained = sum(parts.values()) - parts["import"]
    return {"parts_s": parts, "runs_s": each, "steps": steps.count, "over_step": round(trained / parts["step"], 3)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--scale", default=None)
    parser.add_argument("--only", action="append", default=[], metavar="row=FA,column=32")
    parser.add_argument("--runs", type=int, default=1, help="the first so many")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="shorter runs")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    table = load_table(options.table)
    runs = expand(table, table.scale(options.scale), only=read_only(options.only))[: options.runs]
    result = measure(runs, options.changes)
    total = sum(result["parts_s"].values())
    view = ConsoleTable("part", "CPU s", "share", title=", ".join(one.label for one in runs))
    for part, seconds in result["parts_s"].items():
        view.add_row(part, f"{seconds:.2f}", f"{100 * seconds / total:.0f} %")
    Console(width=100).print(view)
    print(f"{result['steps']} steps; without imports {result['over_step']:.2f} times the bare steps")
    if options.json:
        write_text(options.json, json.dumps({"table": str(options.table), **result}, indent=1) + "\n", "--json")


if __name__ == "__main__":
    main()
