"""Layer-parallel training measured: against its formulas, one process, and torch's pipeline schedules.

    python -m benchmarks.layer_parallel [--parts naps,work,rivals] [--stages 2,4,8] [--json FILE]

* `naps`: every stage sleeps f seconds in its forward and w in its backward pass; the messages are real. `ratio` is
  measured over the formula of `lit_fa.parallel.schedule`, and should be below 1.25. A busy machine hardly changes it.
* `work`: an MLP of 8 hidden layers on two ranks and on one process. `cpu` is the CPU time of the busier rank over one
  process, and should be below 0.58; `wall` is one process over two ranks, and says nothing on a busy machine.
* `rivals`: the same network by backpropagation under `torch.distributed.pipelining`; `wall` as above.

Every measurement is an epoch after a first one. Every rank has one thread.
"""

import argparse
import json
import logging
import multiprocessing
import os
import socket
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from lit_fa.modules import Classifier
from lit_fa.outputs import writable_file, write_text
from lit_fa.parallel.schedule import Setting, full_pipeline, sync_feedback
from lit_fa.parallel.strategy import LayerParallelStrategy
from lit_fa.rules import Backprop, DirectFeedbackAlignment, ForwardForward, LearningRule

MICROBATCHES = 4  # of `sync`
RULES: dict[str, Callable[[], LearningRule]] = {
    "dfa": DirectFeedbackAlignment,
    "drtp": lambda: DirectFeedbackAlignment("target"),
    "ff": lambda: ForwardForward("symba"),
    "bp": Backprop,
}
Result = tuple[float, float]  # wall and CPU seconds


class Nap(nn.Module):
    """The identity, which takes a while in both directions."""

    def __init__(self, seconds: float):
        """seconds: f and w."""
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        """Sleep."""
        return _Nap.apply(x, self.seconds)


class _Nap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        time.sleep(ctx.seconds)
        return grad, None


class Clock(L.Callback):
    """Wall and CPU seconds of the last epoch, with the ranks at one point before and after it."""

    measured: Result = (0.0, 0.0)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        trainer.strategy.barrier()
        self.began = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop."""
        self.measured = time.perf_counter() - self.began[0], time.process_time() - self.began[1]


def napping(stages: int, nap: float) -> nn.Module:
    """A network with one block a stage."""
    torch.manual_seed(0)
    widths = [8] * stages
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, width), Nap(nap)) for width in widths))


def working(width: int) -> nn.Module:
    """784, eight hidden layers, 10."""
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(784 if i == 0 else width, width), nn.Tanh()) for i in range(8)]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def train(network: nn.Module, rule: str, shape: tuple[int, ...], batch: int, steps: int, **options: Any) -> Result:
    """Two epochs of `steps` batches; the second is measured."""
    torch.manual_seed(1)
    size, classes = batch * steps, 8 if shape == (8,) else 10
    data = TensorDataset(torch.randn(size, *shape), torch.randint(classes, (size,)))
    module = Classifier(
        network, RULES[rule](), num_classes=classes, image_shape=shape, accumulate=options.get("accumulate", 1)
    )
    clock, ranks = Clock(), options.get("ranks", 1)
    strategy = LayerParallelStrategy(options["schedule"], options.get("splits"), process_group_backend="gloo")
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(names, False)
    trainer = L.Trainer(
        accelerator="cpu", devices=ranks, strategy=strategy if ranks > 1 else "auto", max_epochs=2, callbacks=[clock],
        limit_val_batches=0, **quiet,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch))
    return clock.measured


def naps(stages: int, schedule: str, batches: int, nap: float) -> Result:
    """One rank of the sleeping network."""
    micro = MICROBATCHES if schedule == "sync" else 1
    splits = [f"{i}.1" for i in range(stages - 1)]
    options: dict[str, Any] = {"schedule": schedule, "ranks": stages, "splits": splits, "accumulate": micro}
    return train(napping(stages, nap), "dfa", (8,), 4, batches * micro, **options)


def work(rule: str, schedule: str, ranks: int, width: int, steps: int) -> Result:
    """One rank of the working network."""
    return train(working(width), rule, (784,), 128, steps, schedule=schedule, ranks=ranks)


def rival(name: str, width: int, steps: int) -> Result:
    """One rank of backpropagation under a schedule of `torch.distributed.pipelining`, 4 microbatches of 32."""
    from torch.distributed import pipelining

    rank = int(os.environ["LOCAL_RANK"])
    dist.init_process_group("gloo", rank=rank, world_size=2)
    layers, zbv = [*working(width).children()], name == "ScheduleZBVZeroBubble"
    single = name in ("ScheduleGPipe", "Schedule1F1B")
    cuts = (0, 4, 9) if single else (0, 2, 4, 6, 9)
    mine = [rank] if single else [rank, 3 - rank] if zbv else [rank, rank + 2]
    parts = {i: nn.Sequential(*layers[cuts[i] : cuts[i + 1]]) for i in mine}
    stages = [pipelining.PipelineStage(parts[i], i, len(cuts) - 1, torch.device("cpu")) for i in mine]
    schedule = getattr(pipelining, name)(stages[0] if single else stages, 4, loss_fn=nn.functional.cross_entropy)
    optimizer = torch.optim.SGD([p for part in parts.values() for p in part.parameters()], lr=0.1)
    torch.manual_seed(1)
    x, y = torch.randn(128, 784), torch.randint(10, (128,))
    first, last = 0 in mine, len(cuts) - 2 in mine
    began = 0.0, 0.0
    for step in range(2 * steps):
        if step == steps:
            dist.barrier()
            began = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        schedule.step(*([x] if first else []), **({"target": y, "losses": []} if last else {}))
        optimizer.step()
    dist.barrier()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def on_ranks(number: int, part: Callable[..., Result], *arguments: Any) -> list[Result]:
    """What every rank measures, each in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    context = multiprocessing.get_context("fork")
    started = []
    for rank in range(number):
        here, there = context.Pipe()
        environment = place | {"LOCAL_RANK": str(rank)} if number > 1 else {}
        process = context.Process(target=_serve, args=(there, environment, part, arguments))
        process.start()
        there.close()
        started.append((process, here))
    results = [here.recv() for _, here in started]
    for process, _ in started:
        process.join()
    return results


def _serve(there: Connection, environment: dict[str, str], part: Callable[..., Result], arguments: Any) -> None:
    os.environ |= environment
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    there.send(part(*arguments))


def nap_rows(stages: list[int], batches: int, nap: float) -> list[dict[str, Any]]:
    """Measured over formula."""
    rows = []
    for number in stages:
        for schedule, formula in (("sync", sync_feedback), ("full", full_pipeline)):
            micro = MICROBATCHES if schedule == "sync" else 1
            measured = max(wall for wall, _ in on_ranks(number, naps, number, schedule, batches, nap))
            expected = formula(Setting(number, micro, nap, nap, nap, batches=batches))
            rows.append({"part": "naps", "stages": number, "what": f"dfa {schedule}", "seconds": round(measured, 3)})
            rows[-1] |= {"formula": round(expected, 3), "ratio": round(measured / expected, 3)}
    return rows


def work_rows(width: int, steps: int) -> list[dict[str, Any]]:
    """Two ranks over one process."""
    rows = []
    for rule, schedule in (("dfa", "sync"), ("dfa", "full"), ("drtp", "full"), ("ff", "full")):
        ((wall, cpu),) = on_ranks(1, work, rule, schedule, 1, width, steps)
        two = on_ranks(2, work, rule, schedule, 2, width, steps)
        row = {"part": "work", "stages": 2, "what": f"{rule} {schedule}", "seconds": round(max(w for w, _ in two), 3)}
        cpus, walls = max(c for _, c in two), max(w for w, _ in two)
        rows.append(row | {"cpu": round(cpus / cpu, 3), "wall": round(wall / walls, 3)})
    return rows


def rival_rows(width: int, steps: int) -> list[dict[str, Any]]:
    """Schedules of torch over one process of backpropagation."""
    ((wall, cpu),) = on_ranks(1, work, "bp", "sync", 1, width, steps)
    rows = []
    for name in ("ScheduleGPipe", "Schedule1F1B", "ScheduleInterleavedZeroBubble", "ScheduleZBVZeroBubble"):
        two = on_ranks(2, rival, name, width, steps)
        cpus, walls = max(c for _, c in two), max(w for w, _ in two)
        row = {"part": "rivals", "stages": 2, "what": f"bp {name.removeprefix('Schedule')}", "seconds": round(walls, 3)}
        rows.append(row | {"cpu": round(cpus / cpu, 3), "wall": round(wall / walls, 3)})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows."""
    table = Table(title=f"layer-parallel training, torch {torch.__version__}, {os.cpu_count()} CPUs")
    columns = ("part", "stages", "what", "seconds", "formula", "ratio", "cpu", "wall")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    Console(width=110).print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="naps,work,rivals")
    parser.add_argument("--stages", default="2,4,8", help="of the sleeping network")
    parser.add_argument("--batches", type=int, default=20, help="of the sleeping network")
    parser.add_argument("--nap", type=float, default=0.1, help="seconds that a stage sleeps, f and w")
    parser.add_argument("--width", type=int, default=1024, help="of the working network")
    parser.add_argument("--steps", type=int, default=20, help="of the working network")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if "naps" in options.parts:
        rows += nap_rows([int(number) for number in options.stages.split(",")], options.batches, options.nap)
    if "work" in options.parts:
        rows += work_rows(options.width, options.steps)
    if "rivals" in options.parts:
        rows += rival_rows(options.width, options.steps)
    show(rows)
    if options.json:
        write_text(options.json, json.dumps({"rows": rows, "torch": torch.__version__}, indent=1), "--json")


if __name__ == "__main__":
    main()
