"""The price of late updates: accuracy of DFA when the stages of a full pipeline apply their updates late.

    python -m benchmarks.staleness [--delays 0,1,3,7] [--seeds 3] [--epochs 15] [--json FILE]

An MLP of 8 hidden layers of 64 tanh units on scikit-learn's digits, batches of 32. With a largest delay d there are
d + 1 stages, of 8 / (d + 1) hidden layers each, and stage s applies the gradient of the batch d - s steps before: that
is `strategy: layer_parallel` with `schedule: full`, in one process, because a late gradient is made by the weights of
its own batch. The learning rate is tuned for every delay and optimiser on the first seed, by samples held out from
training; the other samples held out are the test.
"""

import argparse
import json
import math
import statistics
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lit_fa.outputs import writable_file, write_text
from lit_fa.rules import DirectFeedbackAlignment
from lit_fa.rules.learner import Learner

LAYERS, WIDTH, BATCH = 8, 64, 32
RATES = (0.03, 0.1, 0.3)
Split = tuple[Tensor, Tensor]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "momentum 0.9": partial(torch.optim.SGD, momentum=0.9),
}


def digits() -> tuple[Split, Split, Split]:
    """Training samples (1,197), validation (300) and test (300): inputs from -1 to 1, and labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.data, dtype=torch.float32)[order] / 8 - 1
    y = torch.tensor(data.target)[order]
    return (x[:1197], y[:1197]), (x[1197:1497], y[1197:1497]), (x[1497:], y[1497:])


def delays_of(largest: int) -> list[int]:
    """Of the eight hidden layers and the head.

    >>> delays_of(3)
    [3, 3, 2, 2, 1, 1, 0, 0, 0]
    """
    stages = largest + 1
    return [largest - layer * stages // LAYERS for layer in range(LAYERS)] + [0]


def train(largest: int, optimizer: str, rate: float, seed: int, epochs: int, data: tuple[Split, ...]) -> list[float]:
    """Accuracy (percent) on the validation and the test samples; that of chance if the loss becomes infinite."""
    (x, y), *held_out = data
    torch.manual_seed(seed)
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(LAYERS)]
    network = nn.Sequential(*blocks, nn.Linear(WIDTH, 10))
    learner = Learner(network, DirectFeedbackAlignment(seed=seed), x[:2])
    stepper = OPTIMIZERS[optimizer](network.parameters(), lr=rate)
    late = delays_of(largest)
    waiting: list[deque[list[Tensor]]] = [deque() for _ in late]
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            stepper.zero_grad(set_to_none=True)
            surrogate = learner((x[rows], y[rows]))
            if not math.isfinite(float(surrogate.loss)):
                return [10.0, 10.0]
            surrogate.value.backward()
            for block, delay, queue in zip(network, late, waiting, strict=True):
                _exchange([*block.parameters()], delay, queue)
            stepper.step()
    with torch.no_grad():
        return [100 * (network(inputs).argmax(-1) == labels).float().mean().item() for inputs, labels in held_out]


def _exchange(params: list[Tensor], delay: int, queue: deque[list[Tensor]]) -> None:
    """Replace the gradients of a block by those of `delay` steps before; without gradient until there are some."""
    if not delay:
        return
    queue.append([p.grad for p in params if p.grad is not None])
    older = queue.popleft() if len(queue) > delay else [None] * len(params)
    for p, grad in zip(params, older, strict=True):
        p.grad = grad


def rows_of(delays: list[int], seeds: int, epochs: int) -> list[dict[str, Any]]:
    """One row for each delay and optimiser."""
    data, rows = digits(), []
    for optimizer in OPTIMIZERS:
        for delay in track(delays, description=optimizer, transient=True):
            tried = {rate: train(delay, optimizer, rate, 0, epochs, data) for rate in RATES}
            rate = max(RATES, key=lambda rate: tried[rate][0])
            tests = [tried[rate][1], *(train(delay, optimizer, rate, s, epochs, data)[1] for s in range(1, seeds))]
            spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
            row = {"optimizer": optimizer, "delay": delay, "stages": delay + 1, "rate": rate}
            rows.append(row | {"accuracy": round(statistics.mean(tests), 2), "std": round(spread, 2), "seeds": seeds})
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delays", default="0,1,3,7")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    rows = rows_of([int(delay) for delay in options.delays.split(",")], options.seeds, options.epochs)
    table = Table(title=f"DFA with late updates on digits, test accuracy, {options.epochs} epochs")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=100).print(table)
    if options.json:
        write_text(options.json, json.dumps({"rows": rows, "torch": str(torch.__version__)}, indent=1), "--json")


if __name__ == "__main__":
    main()
