"""A training step by explicit products compared with the same step by autograd, alternating, one thread, medians.

    python -m benchmarks.written [--rounds 40] [--json FILE]

A step is gradients and plain SGD, on random data. `written`: the ratio of `lit_fa.written` to the learner's scalar and
`backward`, in processor time of the one thread.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from lit_fa.outputs import writable_file, write_text
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment, ForwardForward, LearningRule
from lit_fa.rules.learner import Learner
from lit_fa.written import WrittenGradient

RULES: dict[str, Callable[[], LearningRule]] = {
    "bp": Backprop,
    "fa": FeedbackAlignment,
    "usf": partial(FeedbackAlignment, "sign"),
    "kp": partial(FeedbackAlignment, "kolen_pollack"),
    "dfa": DirectFeedbackAlignment,
    "drtp": partial(DirectFeedbackAlignment, "target"),
    "ff": partial(ForwardForward, "symba"),
}
SIZES = {"64-32-10, batch 32": (32, 64, 32, 10), "784-500-10, batch 128": (128, 784, 500, 10),
         "784-1024x3-10, batch 128": (128, 784, 1024, 1024, 1024, 10)}  # fmt: skip


def step(rule: str, sizes: tuple[int, ...], *, written: bool) -> Callable[[], None]:
    """One step of a network of these sizes (batch, inputs, hidden layers, classes)."""
    torch.manual_seed(0)
    batch, *widths = sizes
    layers = [part for i, o in pairwise(widths[:-1]) for part in (nn.Linear(i, o), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
    x, y = torch.randn(batch, widths[0]), torch.randint(10, (batch,))
    learner = Learner(network, RULES[rule](), x[:2])
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=1e-3)
    explicit = WrittenGradient([learner]) if written else None

    def one() -> None:
        if explicit is None:
            learner((x, y)).value.backward()
        else:
            explicit((x, y))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return one


def measure(rule: str, sizes: tuple[int, ...], rounds: int) -> tuple[float, float]:
    """Milliseconds of a step by autograd, and the ratio of the written one."""
    steps = {written: step(rule, sizes, written=written) for written in (False, True)}
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(-5, rounds):
        for written, one in steps.items():
            start = time.thread_time()
            one()
            if number >= 0:
                times[written].append(time.thread_time() - start)
    ratio = statistics.median(b / a for a, b in zip(times[False], times[True], strict=True))
    return 1000 * statistics.median(times[False]), ratio


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.json:
        writable_file(arguments.json, "--json")
    torch.set_num_threads(1)
    found = {size: {rule: measure(rule, SIZES[size], arguments.rounds) for rule in RULES} for size in SIZES}
    table = Table("rule", *(f"{size}: autograd, ms | written" for size in SIZES))
    for rule in RULES:
        table.add_row(rule, *(f"{ms:.2f} | {ratio:.2f}" for ms, ratio in (found[size][rule] for size in SIZES)))
    Console().print(table)
    if arguments.json:
        write_text(arguments.json, json.dumps(found, indent=1) + "\n", "--json")


if __name__ == "__main__":
    main()
