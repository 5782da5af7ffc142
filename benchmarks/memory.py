"""Memory and time of one training step of a deep MLP: backprop, with and without checkpointing, and streamed rules.

    python -m benchmarks.memory [--depths 16,64,256] [--rounds 9] [--parts steps,limit] [--json FILE]

* `steps`: `peak` is the largest size of all tensors alive in a step above its start, in MiB; `gradients` that of the
  gradients of all parameters, which every step but those of `stream: step` has in memory at its end; `above` is the
  difference, and for `stream: step` the peak itself. `over fused` is the median over rounds of processor time (one
  thread) over the same rule without streaming in the same round, for backprop over plain backprop.
* `limit`: which of them take two steps of the deepest network in a process that may allocate only so much more memory
  (RLIMIT_DATA) than model and optimiser need.

Backprop is plain torch. `checkpointing` keeps the activations of about sqrt(depth) blocks and computes the others
again; `accumulation` does this for eighths of the batch.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import resource
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from benchmarks.step import measure, peak_bytes
from lit_fa.modules.stepping import BlockSteps
from lit_fa.outputs import writable_file, write_text
from lit_fa.rules import DirectFeedbackAlignment, ForwardForward, LearningRule
from lit_fa.rules.learner import Learner

WIDTH, BATCH, MICROBATCHES, MIB = 128, 1024, 8, 2**20
RULES: dict[str, Callable[[], LearningRule]] = {
    "DFA": DirectFeedbackAlignment,
    "DRTP": lambda: DirectFeedbackAlignment("target"),
    "Forward-Forward": lambda: ForwardForward("symba", head="none"),
}
STREAMS: dict[str, bool | str] = {"fused": False, "stream: true": True, "stream: step": "step"}
PLAIN = ("backprop", "checkpointing", "checkpointing, accumulation")
M_MMAP_THRESHOLD = -3  # of mallopt, as the environment variable MALLOC_MMAP_THRESHOLD_
Step = Callable[[], None]


def problem(depth: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """`depth` blocks of 128 units and a head, and a batch of 1024."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(depth)]
    return nn.Sequential(*blocks, nn.Linear(WIDTH, 10)), torch.randn(BATCH, WIDTH), torch.randint(10, (BATCH,))


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    """With momentum, the state of which exists before the first step is measured."""
    return torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)


def plain_step(depth: int, how: str) -> Step:
    """Backprop in plain torch."""
    network, x, y = problem(depth)
    optimizer = sgd(network)
    forward = partial(checkpoint_sequential, network, round(depth**0.5), use_reentrant=False)
    parts = MICROBATCHES if "accumulation" in how else 1

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for inputs, targets in zip(x.chunk(parts), y.chunk(parts), strict=True):
            logits = network(inputs) if how == "backprop" else forward(input=inputs)
            (F.cross_entropy(logits, targets) / parts).backward()
        optimizer.step()

    return step


def rule_step(depth: int, rule: str, stream: bool | str) -> Step:
    """One of our rules, as `Classifier` does it."""
    network, x, y = problem(depth)
    learner = Learner(network, RULES[rule](), x[:2])
    optimizer = sgd(learner)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        if stream == "step":
            with BlockSteps(learner, optimizer, None).after(Tensor.backward) as learn:
                learner.stream((x, y), learn)
            return
        if stream:
            learner.stream((x, y), Tensor.backward)
        else:
            learner((x, y)).value.backward()
        optimizer.step()

    return step


def groups(depth: int) -> list[dict[str, Step]]:
    """The steps that are timed in turns; the first of each is the reference of the others."""
    plain = {how: plain_step(depth, how) for how in PLAIN}
    return [plain, *({f"{r}, {s}": rule_step(depth, r, STREAMS[s]) for s in STREAMS} for r in RULES)]


def step_rows(depth: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each step."""
    gradients = sum(p.nbytes for p in problem(depth)[0].parameters())
    rows = []
    for steps in groups(depth):
        seconds = measure(steps, rounds, f"depth {depth}")
        reference = next(iter(seconds.values()))
        for name, step in steps.items():
            peak = peak_bytes(step)
            above = peak if name.endswith("step") else peak - gradients
            ratio = statistics.median(a / b for a, b in zip(seconds[name], reference, strict=True))
            row = {"depth": depth, "step": name, "ms": round(1e3 * statistics.median(seconds[name]), 1)}
            rows.append(row | {"over_fused": round(ratio, 3), "peak": peak, "gradients": gradients, "above": above})
    return rows


def flatness(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Bytes above gradients at the largest depth over those at the smallest."""
    depths = sorted({row["depth"] for row in rows})
    above = {(row["depth"], row["step"]): row["above"] for row in rows}
    return {name: round(above[depths[-1], name] / above[depths[0], name], 3) for _, name in above}


def within(limit: int, depth: int, make: Callable[[int], Step]) -> bool:
    """Whether a process of its own takes two steps with at most `limit` bytes more than model and optimiser have."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_limited, args=(limit, depth, make))
    process.start()
    process.join()
    if process.exitcode not in (0, 3):
        raise RuntimeError(f"a step ended with exit code {process.exitcode}")
    return process.exitcode == 0


def _limited(limit: int, depth: int, make: Callable[[int], Step]) -> None:
    torch.set_num_threads(1)
    # glibc raises its threshold when an activation is freed, and then puts momenta where activations have been
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 128 * 1024)
    step = make(depth)
    make(1)()  # loads what a first step loads
    data = next(line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if "VmData" in line)
    optimiser = WIDTH * (WIDTH + 1) * 4 * depth  # the momentum, which the first step makes
    resource.setrlimit(resource.RLIMIT_DATA, (int(data.split()[1]) * 1024 + optimiser + limit, resource.RLIM_INFINITY))
    try:
        step()
        step()
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error):
            raise
        os._exit(3)
    os._exit(0)


def limit_rows(depth: int, limit: int) -> list[dict[str, Any]]:
    """Which steps can be taken under the limit."""
    steps: dict[str, Callable[[int], Step]] = {how: partial(plain_step, how=how) for how in PLAIN}
    steps |= {f"{r}, {s}": partial(rule_step, rule=r, stream=STREAMS[s]) for r in RULES for s in STREAMS}
    return [{"depth": depth, "step": n, "limit": limit, "done": within(limit, depth, m)} for n, m in steps.items()]


def show(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Print the rows; sizes in MiB."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column)
    for row in rows:
        sizes = {name: f"{row[name] / MIB:.1f}" for name in ("peak", "gradients", "above", "limit") if name in row}
        table.add_row(*(str((row | sizes)[column]) for column in columns))
    Console(width=110).print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="steps,limit")
    parser.add_argument("--depths", default="16,64,256")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=int, default=32, help="MiB")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler prints many lines
    depths, limits, steps = [int(depth) for depth in options.depths.split(",")], [], []
    if "limit" in options.parts:  # before this process has threads
        limits = limit_rows(depths[-1], options.limit * MIB)
        show("two steps within a limit", limits, ("depth", "step", "limit", "done"))
    for depth in depths if "steps" in options.parts else []:
        steps += (rows := step_rows(depth, options.rounds))
        title = f"one step, width {WIDTH}, batch {BATCH}, one thread, torch {torch.__version__}, MiB"
        show(title, rows, ("depth", "step", "ms", "over_fused", "peak", "gradients", "above"))
    flat = flatness(steps) if steps else {}
    print(f"bytes above gradients, depth {depths[-1]} over depth {depths[0]}: {flat}")
    if options.json:
        content = {"torch": str(torch.__version__), "limit": limits, "steps": steps, "flatness": flat}
        write_text(options.json, json.dumps(content, indent=1), "--json")


if __name__ == "__main__":
    main()
