"""One federated round: our executors compared with plain loops; alternating, on one thread.

    python -m benchmarks.federated [--rounds 7] [--passes 3] [--pfl PYTHON] [--flower PYTHON] [--json FILE]

The work: 100 clients of 600 MNIST images (random images of the same shape without MNIST), 10 per round, MLP
784-200-200-10, batch 10, one local epoch, plain SGD. The methods alternate in every round and are measured in processor
time of the one thread; `ratio` is the median over rounds of (method / stacked in the same round). Also measured: a
FedFwd round on 784-500-500, five local epochs, batch 50, compared with backprop's.

In separate processes and in wall time: one rank under the Trainer, two ranks, and two independent runs at the same
time; also pfl and Flower's simulation, given the interpreters of environments that have them (pip install
'pfl[pytorch]'; pip install 'flwr[simulation]==1.41.0' torch numpy).
"""

import argparse
import copy
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_fa.callbacks import RoundCost
from lit_fa.datamodules import MNIST, Federated, Synthetic
from lit_fa.datamodules.errors import DataError
from lit_fa.datamodules.rounds import Round
from lit_fa.federated import LocalSGD
from lit_fa.federated.executors import executor_named
from lit_fa.modules import FederatedClassifier
from lit_fa.outputs import writable_file, write_text
from lit_fa.rules import Backprop, ForwardForward, LearningRule

LR = 0.1
ONE, TWO = "1 rank, Trainer", "2 ranks, Trainer"
BESIDE = "1 rank, another beside it"  # two runs that share nothing: half of its ratio is the limit of two ranks here
# a peer's name, its script and how many processes of one thread train its clients
PEERS = {"pfl": ("pfl", 1), "Flower, 1 actor": ("flower", 1), "Flower, 2 actors": ("flower", 2)}


def federation(batch_size: int = 10, local_epochs: int = 1) -> Federated:
    """100 clients of 600 images, from MNIST if it is available."""
    options: dict[str, Any] = {"normalize": "unit", "flatten": True, "limit_test": 100}
    work: dict[str, Any] = {"batch_size": batch_size, "local_epochs": local_epochs, "rounds_per_epoch": 1}
    try:
        data = Federated(MNIST(download=False, **options), **work)
        data.prepare_data()
        data.setup()
    except (DataError, RuntimeError):
        data = Federated(Synthetic(n_train=60_000, **options), **work)
        data.setup()
    return data


def module_of(rule: LearningRule, hidden: list[int], lr: float = LR) -> FederatedClassifier:
    """The MLP under a rule; executors are passed as arguments."""
    torch.manual_seed(0)
    return FederatedClassifier(
        "mlp",
        rule,
        local_optimizer=LocalSGD(lr),
        executor="sequential",
        network_args={"hidden": hidden},
        input_shape=(784,),
    )


def executed(name: str, module: FederatedClassifier) -> Callable[[Round], dict[str, Any]]:
    """A round by one of our executors: the new server weights."""
    executor = executor_named(name)
    module.rounds = lambda: 1  # type: ignore[method-assign]  # of this object: there is no trainer

    def run(round: Round) -> dict[str, Any]:
        task = module.round_task(round)
        result = executor.run(module.learner, module.local, task)
        return module.learner.split({n: p - result.update[n] for n, p in task.params.items()}).network

    return run


def tuned_loop(network: nn.Module) -> Callable[[Round], dict[str, Any]]:
    """An optimised plain loop: one reused model, index tensors, no loader and no optimiser object."""
    params: list[Tensor] = list(network.parameters())

    def run(round: Round) -> dict[str, Any]:
        server = [p.detach().clone() for p in params]
        total, mean = sum(round.sizes), [torch.zeros_like(p) for p in server]
        for client, size in enumerate(round.sizes):
            with torch.no_grad():
                torch._foreach_copy_(params, server)
            for step in range(round.steps[client]):
                places = round.places[client, step]
                loss = F.cross_entropy(network(round.images[places]), round.labels[places])
                grads = torch.autograd.grad(loss, params)
                with torch.no_grad():
                    torch._foreach_add_(params, grads, alpha=-LR)
            with torch.no_grad():
                torch._foreach_add_(mean, params, alpha=size / total)
        with torch.no_grad():
            torch._foreach_copy_(params, server)
        return dict(zip((n for n, _ in network.named_parameters()), mean, strict=True))

    return run


def naive_loop(network: nn.Module) -> Callable[[Round], dict[str, Any]]:
    """A loop as in tutorials: a copy of the model, a DataLoader and an optimiser for every client."""

    def run(round: Round) -> dict[str, Any]:
        total, mean = sum(round.sizes), {n: torch.zeros_like(p) for n, p in network.named_parameters()}
        for index, size in enumerate(round.sizes):
            client, places = copy.deepcopy(network), round.places[index].reshape(-1)
            optimizer = torch.optim.SGD(client.parameters(), lr=LR)
            loader = DataLoader(TensorDataset(round.images[places], round.labels[places]), batch_size=10)
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(client(x), y).backward()
                optimizer.step()
            for name, p in client.named_parameters():
                mean[name] += p.detach() * (size / total)
        return mean

    return run


def interleaved(
    contenders: dict[str, Callable[..., Any]], data: Federated, rounds: int, label: str
) -> dict[str, list[float]]:
    """Processor seconds of each method in each round, without the first round; the order rotates."""
    loader, names = data.train_dataloader(), [*contenders]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in track(range(rounds + 1), description=label, transient=True):
        round, shift = loader.round(number), number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.thread_time()
            contenders[name](round)
            if number:
                seconds[name].append(time.thread_time() - start)
    return seconds


def check_same(contenders: dict[str, Callable[..., Any]], round: Round) -> None:
    """Check that all methods give the same weights."""
    results = {name: run(round) for name, run in contenders.items()}
    first = next(iter(results.values()))
    for name, result in results.items():
        far = max((result[n] - first[n]).abs().max().item() for n in first)
        assert far < 1e-4, f"{name} is {far} away"


def rows_of(seconds: dict[str, list[float]], what: str, reference: str) -> list[dict[str, Any]]:
    """One row per method, with its median ratio to the reference in the same round."""
    rows = []
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds[reference], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2
        row = {"what": what, "contender": name, "ms": round(1e3 * statistics.median(values), 1)}
        rows.append(row | {"ratio": round(statistics.median(ratios), 3), "quartiles": [round(q, 3) for q in quartiles]})
    return rows


def in_one_thread(rounds: int) -> list[dict[str, Any]]:
    """The alternating measurement, in this process."""
    data, network = federation(), module_of(Backprop(), [200, 200]).network
    ours = {name: executed(name, module_of(Backprop(), [200, 200])) for name in ("stacked", "vmap", "sequential")}
    contenders = ours | {"tuned loop": tuned_loop(copy.deepcopy(network)), "naive loop": naive_loop(network)}
    check_same(contenders, data.train_dataloader().round(0))
    seconds = interleaved(contenders, data, rounds, "one thread")
    return rows_of(seconds, f"784-200-200-10, one epoch, {type(data.data).__name__}", "stacked")


def fedfwd_round(rounds: int) -> list[dict[str, Any]]:
    """A Forward-Forward round compared with backprop, both by the stacked executor."""
    data = federation(50, 5)
    contenders = {
        "FedAvg": executed("stacked", module_of(Backprop(), [500, 500])),
        "FedFwd": executed("stacked", module_of(ForwardForward(loss="symba", head="none"), [500, 500], 5.0)),
    }
    return rows_of(interleaved(contenders, data, rounds, "FedFwd"), "784-500-500, five epochs, batch 50", "FedAvg")


def trained(devices: int, rounds: int) -> float:
    """Median wall seconds of a round of `Trainer.fit` on ranks of one thread each, without the first round."""
    times: list[float] = []

    class Clock(RoundCost):
        def on_train_batch_end(self, *args: object) -> None:
            times.append(time.perf_counter() - self._wall)

    data = federation()
    trainer = L.Trainer(
        max_epochs=rounds + 1,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[Clock()],
    )
    module = module_of(Backprop(), [200, 200])
    module.executor = executor_named("stacked")
    trainer.fit(module, data)
    if trainer.is_global_zero:
        print(json.dumps({"seconds": statistics.median(times[1:])}), flush=True)
    return statistics.median(times[1:])


def in_processes(rounds: int, passes: int, pythons: dict[str, str | None]) -> list[dict[str, Any]]:
    """Wall time of a round in new processes, which alternate; other packages run under their own interpreters."""
    worker = [sys.executable, "-m", "benchmarks.federated", "--rounds", str(rounds), "--ranks"]
    commands = {ONE: [*worker, "1"], BESIDE: [*worker, "1"], TWO: [*worker, "2"]}
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "data.npz")
        if any(pythons.values()):
            _write(federation(), data)
        for name, (peer, processes) in PEERS.items():
            script = str(Path(__file__).parent / "peers" / f"{peer}_round.py")
            if python := pythons.get(peer):
                commands[name] = [python, script, data, str(rounds), str(processes)]
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in track(range(passes), description="processes", transient=True):
            for name, command in commands.items():
                seconds[name].append(_ask(name, command, copies=2 if name == BESIDE else 1))
    two = {name: seconds[name] for name in seconds if name == TWO or PEERS.get(name, ("", 1))[1] == 2}
    one = {name: seconds[name] for name in seconds if name not in two or name == TWO}
    what = "784-200-200-10, one epoch, wall time, own process"
    return rows_of(one, what, ONE) + (rows_of(two, f"{what}, two threads", TWO) if len(two) > 1 else [])


def _write(data: Federated, path: str) -> None:
    """Write images, labels and clients to a file for the other packages."""
    images = data.train_dataloader().images
    parts = torch.stack([*data.parts]).numpy()
    np.savez(path, x=images.images.numpy(), y=images.labels.numpy(), parts=parts)


def _ask(name: str, command: list[str], copies: int) -> float:
    """The seconds that a process prints at its end; for several at the same time, their mean."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        for _ in range(copies)
    ]
    seconds = []
    for process in running:
        out, err = process.communicate()
        lines = [line for line in out.splitlines() if line.startswith('{"seconds"')]
        if not lines:
            raise SystemExit(f"{name} gave no time: {err.strip().splitlines()[-1:]}")
        seconds.append(json.loads(lines[-1])["seconds"])
    return statistics.mean(seconds)


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the rows as a table."""
    table = Table(title=f"a federated round, torch {torch.__version__}, load average {os.getloadavg()[0]:.1f}")
    for column in ("work", "contender", "ms", "ratio", "quartiles"):
        table.add_column(column, justify="left" if column in ("work", "contender") else "right")
    for r in rows:
        low, high = r["quartiles"]
        table.add_row(r["what"], r["contender"], f"{r['ms']:.1f}", f"{r['ratio']:.2f}", f"{low:.2f}-{high:.2f}")
    console.print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--ranks", type=int, help="run as a worker of so many ranks")
    parser.add_argument("--pfl", metavar="PYTHON", help="interpreter of an environment with pfl")
    parser.add_argument("--flower", metavar="PYTHON", help="interpreter of an environment with flwr[simulation]")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if options.ranks:
        trained(options.ranks, options.rounds)
        return
    rows = in_one_thread(options.rounds) + fedfwd_round(max(options.rounds // 2, 2))
    rows += in_processes(options.rounds, options.passes, {"pfl": options.pfl, "flower": options.flower})
    show(rows, Console(width=120))
    if options.json:
        facts = {"torch": torch.__version__, "threads": 1, "load": os.getloadavg()[0]}
        write_text(options.json, json.dumps({"rows": rows, **facts}, indent=1), "--json")


if __name__ == "__main__":
    main()
