"""Where the CPU seconds of runs go, and a process that trains runs as a worker of `table run` does, of any commit.

`benchmarks.table` uses both. As a script, `python benchmarks/worker_time.py TASK` imports `lit_fa` from PYTHONPATH,
which may be an older commit, so this file needs nothing else of ours. The last line that it prints is the answer.

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

import copy
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

INTERVAL = 0.002  # seconds of CPU time; the system's clock may be coarser
RUNNER = "lit_fa.experiment:run"
PARTS: dict[str, tuple[str, ...]] = {  # from a part to `end of a file` or `end of a file:function`, in order
    "import": ("<frozen importlib._bootstrap>",),
    "checkpoint": ("lit_fa/checkpoints/lightning_io.py", "trainer.py:Trainer.save_checkpoint", "model_checkpoint.py"),
    "validation": ("evaluation_loop.py:_EvaluationLoop.run",),
    "callbacks": ("/callbacks/", "lit_fa/packs/member.py:watch"),
    "logging": ("logger_connector.py", "result.py", "core/module.py:LightningModule.log", "/loggers/"),
    "data": (
        "/datamodules/",
        "fetchers.py",
        "combined_loader.py",
        "core/module.py:LightningModule._apply_batch_transfer_handler",
    ),
    "step": (
        "modules/gradients.py:Gradients.__call__",
        "/torch/optim/",
        "rules/learner.py",
        "/lit_fa/written/",
        "/lit_fa/packs/program.py",
        "/lit_fa/federated/",
    ),
    "Trainer": ("fit_loop.py:_FitLoop.run", "restart.py:FitLoop.run"),
    "set-up": ("",),
}


class Sampler:
    """CPU seconds by part: a timer of CPU time interrupts the process and looks at the stack.

    The time since the last sample belongs to the first part that a frame of the stack names.
    """

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


def train(runs: list[dict[str, Any]], pack: int, folder: Path) -> dict[str, Any]:
    """Train the runs after a first one of a single epoch, which imports and prepares what a worker does only once.

    Args:
        runs: each with `config`, `id` and `seed`.
        pack: value of `--pack`: 0 for auto, 1 for off.
        folder: of records and logs.

    Returns:
        `first_s`: CPU seconds of everything before the runs; `run_s`: of one run; `parts_s`: of all runs;
        `records`: by id, metrics and curves.
    """
    from lit_fa.jobs import worker

    first = copy.deepcopy(runs[0])
    first["config"]["trainer"]["max_epochs"] = 1
    _finished([worker.work(RUNNER, *_words(first, folder / "first"))])
    before, sampler = _cpu(), Sampler()
    with sampler:
        if pack == 1:
            _finished([worker.work(RUNNER, *_words(copy.deepcopy(run), folder)) for run in runs])
        else:
            _train_packs(runs, pack, folder)
    del sampler.seconds["import"]
    read = {run["id"]: json.loads((folder / f"{run['id']}.json").read_text(encoding="utf-8")) for run in runs}
    return {
        "first_s": round(before, 3),
        "run_s": round((_cpu() - before) / len(runs), 4),
        "parts_s": {part: round(sampler.seconds[part], 3) for part in PARTS if part != "import"},
        "records": {name: {key: record[key] for key in ("metrics", "curves")} for name, record in read.items()},
    }


def _words(run: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Config, record and log of a run, as a worker gets them."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"path": str(folder / f"{run['id']}.json"), "id": run["id"], "seed": run["seed"]}
    return run["config"], record, str(folder / f"{run['id']}.log")


def _train_packs(runs: list[dict[str, Any]], most: int, folder: Path) -> None:
    """Train the runs as a worker does with `--pack`."""
    from lit_fa.jobs import worker
    from lit_fa.jobs.packing import Queue, packed

    ordered, packing = packed(runs, most, 1, lambda run: run["config"])
    queue = Queue(ordered, packing)
    while taken := queue.take():
        words = [_words(copy.deepcopy(run), folder) for run in taken]
        _finished(worker.work_all(RUNNER, words, packing.together if packing.group(taken[0]) else "off"))


def _finished(ended: list[Any]) -> None:
    """Stop if a run has not finished."""
    for done in ended:
        if not done.finished:
            raise SystemExit(f"a run has not finished: {done.summary}")


def _cpu() -> float:
    """CPU seconds of this process and the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main(task: str) -> None:
    """Carry out a task of `benchmarks.table`."""
    words = json.loads(Path(task).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIT_FA_CACHE"] = str(Path(folder) / "cache")  # every process pretrains for itself
        found = train(words["runs"], words["pack"], Path(folder) / "records")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
