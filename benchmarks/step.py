"""One training step of every rule compared with plain backprop: alternating in one process on one thread, medians.

    python -m benchmarks.step [--rounds 25] [--networks mlp,lenet,vgg] [--rules fa,dfa] [--peers] [--json FILE]

A step is zero_grad, forward pass, cross-entropy, backward pass, the rule's gradient edits, and SGD with momentum, on
random data of batch 128. It is measured in processor time of the one thread, which other processes disturb less than
wall time. `ratio` is the median over rounds of (rule / backprop in the same round), `spread` its quartiles, `limit`
the ratio of matrix products, `peak_bytes` the live tensor bytes above the start of a step, with gradients. Backprop is
plain torch without our code. Convolutional networks use the memory format in which plain backprop is fastest,
channels_last on the CPUs we have tested; `--layout contiguous` selects the other.

SSA and SVD training use an eighth of the full rank and `products: fewest`; `ssa` adds the orthogonality gradient and
retracts in every tenth step, `ssa_every_step` in every step; `ssa_factors` is `ssa` without `products: fewest`.
"""

import argparse
import gc
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import BATCH, NETWORKS, arithmetic_limit
from lit_fa.outputs import writable_file, write_text
from lit_fa.rules import (
    FLFA,
    Backprop,
    DirectFeedbackAlignment,
    Does,
    FeedbackAlignment,
    ForwardForward,
    Progress,
    SignFeedback,
    SVDBackprop,
    SVDSpaceAlignment,
)
from lit_fa.rules.learner import Learner

RULES: dict[str, Callable[..., Any]] = {
    "bp": Backprop,
    "fa": FeedbackAlignment,
    "usf": lambda: FeedbackAlignment(SignFeedback("usf")),
    "frsf": lambda: FeedbackAlignment(SignFeedback("frsf")),
    "kp": lambda: FeedbackAlignment("kolen_pollack"),
    "snapshot": lambda: FeedbackAlignment("snapshot"),
    "flfa": FLFA,
    "flfa_all": lambda: FLFA(None),
    "dfa": DirectFeedbackAlignment,
    "drtp": lambda: DirectFeedbackAlignment("target"),
    "ff": lambda: ForwardForward("symba", head="none"),
    "svd_bp": lambda: SVDBackprop(0.125, orthogonality_every=10, products="fewest"),
    "ssa": lambda: SVDSpaceAlignment(rank=0.125, orthogonality_every=10, retract_every=10, products="fewest"),
    "ssa_factors": lambda: SVDSpaceAlignment(rank=0.125, orthogonality_every=10, retract_every=10),
    "ssa_sequential": lambda: SVDSpaceAlignment(
        "sequential", rank=0.125, orthogonality_every=10, retract_every=10, products="fewest"
    ),
    "ssa_every_step": lambda: SVDSpaceAlignment(rank=0.125, products="fewest"),
}
PEERS = ("fa", "usf", "dfa")


def problem(name: str, layout: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The network called `name`, and a random batch, in a memory layout."""
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    network, x, y = build(), torch.randn(BATCH, *shape), torch.randint(10, (BATCH,))
    if layout == "channels_last" and x.ndim == 4:
        network, x = network.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    return network, x, y


def plain_step(name: str, layout: str) -> Callable[[], None]:
    """Backprop in plain torch, without our code: the reference of every ratio."""
    network, x, y = problem(name, layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def rule_step(rule: str, name: str, layout: str) -> Callable[[], None]:
    """The same step with one of our rules."""
    network, x, y = problem(name, layout)
    learner = Learner(network, RULES[rule](), x[:2])
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)

    numbers = itertools.count()

    def step() -> None:
        number = next(numbers)
        optimizer.zero_grad(set_to_none=True)
        learner((x, y)).value.backward()
        learner.edit_gradients(Progress(number))
        optimizer.step()
        if Does.EVOLVES in learner.rule.does:
            learner.after_step(Progress(number + 1))

    return step


def peer_step(mode: str, name: str, layout: str) -> Callable[[], None]:
    """The same step with biotorch's layers."""
    from biotorch.module.biomodule import BioModule

    network, x, y = problem(name, layout)
    network = BioModule(network, mode=mode, output_dim=10)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = network(x, targets=y, loss_function=F.cross_entropy) if mode == "dfa" else network(x)
        F.cross_entropy(logits, y).backward()
        optimizer.step()

    return step


def measure(steps: dict[str, Callable[..., Any]], rounds: int, label: str) -> dict[str, list[float]]:
    """Seconds of each step in each round, after five warm-up rounds; the order rotates."""
    names = [*steps]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in track(range(-5, rounds), description=label, transient=True):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.thread_time()
            steps[name]()
            if turn >= 0:
                seconds[name].append(time.thread_time() - start)
    return seconds


def counted_limit(steps: dict[str, Callable[..., Any]], rule: str) -> float:
    """Products of ten steps of the rule relative to backprop, for rules whose steps differ."""
    counted = {}
    for name in ("bp", rule):
        with FlopCounterMode(display=False) as counter:
            for _ in range(10):
                steps[name]()
        counted[name] = counter.get_total_flops()
    return counted[rule] / counted["bp"]


def peak_bytes(step: Callable[[], None]) -> int:
    """Peak of live tensor bytes during one step, above its start, including gradients, which are freed before it."""
    step()
    gc.collect()
    # the step before left gradients alive; the allocator's events count them as freed when zero_grad drops them
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    live = start = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            start = min(start, live)
            peak = max(peak, live - start)
    return peak


def rows_of(name: str, rounds: int, rules: list[str], peers: bool, layout: str) -> list[dict[str, Any]]:
    """One row per rule for the network called `name`."""
    steps = {"bp": plain_step(name, layout)} | {r: rule_step(r, name, layout) for r in rules if r != "bp"}
    steps |= {f"biotorch {mode}": peer_step(mode, name, layout) for mode in PEERS} if peers else {}
    rows = []
    for rule in steps:
        # in pairs, because the weights of all learners together do not fit into the cache
        seconds = measure({"bp": steps["bp"], rule: steps[rule]}, rounds, f"{name} {rule}")
        ratios = [a / b for a, b in zip(seconds[rule], seconds["bp"], strict=True)]
        limit = (
            counted_limit(steps, rule) if rule.startswith(("svd", "ssa")) else arithmetic_limit(rule.split()[-1], name)
        )
        ratio = statistics.median(ratios)
        spread = [round(q, 4) for q in statistics.quantiles(ratios, n=4)[::2]] if len(ratios) > 1 else [ratio, ratio]
        row = {"rule": rule, "network": name, "ms": round(1e3 * statistics.median(seconds[rule]), 3)}
        row |= {
            "layout": layout,
            "ratio": round(ratio, 4),
            "limit": round(limit, 4),
            "over_limit": round(ratio / limit, 4),
        }
        rows.append(row | {"peak_bytes": peak_bytes(steps[rule]), "spread": spread, "rounds": rounds})
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the rows as a table."""
    table = Table(
        title=f"one training step, batch {BATCH}, {torch.get_num_threads()} thread, torch {torch.__version__}"
    )
    for column in ("network", "rule", "ms", "x backprop", "quartiles", "limit", "over limit", "peak MB"):
        table.add_column(column, justify="left" if column in ("network", "rule") else "right")
    for r in rows:
        low, high = r["spread"]
        cells = (f"{r['ms']:.1f}", f"{r['ratio']:.3f}", f"{low:.3f}-{high:.3f}", f"{r['limit']:.3f}")
        table.add_row(r["network"], r["rule"], *cells, f"{r['over_limit']:.3f}", f"{r['peak_bytes'] / 1e6:.1f}")
    console.print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--networks", default="mlp,lenet,vgg")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--peers", action="store_true", help="time biotorch's layers too, if it is installed")
    parser.add_argument("--layout", choices=("channels_last", "contiguous"), default="channels_last")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler prints many lines
    rules = options.rules.split(",")
    chosen = options.networks.split(",")
    rows = [row for n in chosen for row in rows_of(n, options.rounds, rules, options.peers, options.layout)]
    show(rows, Console(width=100))
    if options.json:
        write_text(
            options.json,
            json.dumps({"rows": rows, "torch": torch.__version__, "threads": 1, "batch": BATCH}, indent=1),
            "--json",
        )


if __name__ == "__main__":
    main()
