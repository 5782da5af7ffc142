"""A fine-tuning step by direct feedback compared with the same step by backprop: an FCN, a ViT, a ViT with adapters.

    python -m benchmarks.fine_tuning [--rounds 15] [--cases fcn,vit,lora] [--json FILE]

The two alternate in one process on one thread, in processor time of that thread: `ratio` is the median over rounds of
(direct feedback / backprop in the same round), `spread` its quartiles, `limit` the ratio of counted products. `fcn` is
3072-1024x5-10 at batch 128; `vit` is timm's ViT-Tiny at 96 x 96 (STL-10's size) and batch 64, with stop-gradients after
attention, activation and block; `lora` is the same with adapters of rank 8 in all dense layers, so that the frozen
weights receive no gradient under either rule. Backprop is our `Backprop` with the same network, optimiser and adapters.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step import measure, peak_bytes
from lit_fa.networks import Adapters, create_network
from lit_fa.outputs import writable_file, write_text
from lit_fa.rules import Backprop, DirectFeedbackAlignment, LearningRule
from lit_fa.rules.learner import Learner

LORA = {"peft_type": "LORA", "r": 8, "target_modules": ["qkv", "attn.proj", "fc1", "fc2"]}


def fcn() -> nn.Module:
    """3072-1024x5-10."""
    return create_network("mlp", 10, (3, 32, 32), width=1024, depth=5)


def vit() -> nn.Module:
    """ViT-Tiny for STL-10."""
    return timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=10)


def lora() -> nn.Module:
    """ViT-Tiny with adapters."""
    network = vit()
    Adapters(network, LORA)
    return network


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, dict[str, Any]]] = {
    "fcn": (fcn, (3, 32, 32), 128, {}),
    "vit": (vit, (3, 96, 96), 64, {"blocks": "micro", "tokens": "all"}),
    "lora": (lora, (3, 96, 96), 64, {"blocks": "micro", "tokens": "all"}),
}


def step_of(case: str, rule: LearningRule) -> Callable[[], None]:
    """One step on random data, SGD with momentum."""
    build, shape, batch, _ = CASES[case]
    torch.manual_seed(0)
    network, x, y = build(), torch.randn(batch, *shape), torch.randint(10, (batch,))
    learner = Learner(network, rule, x[:2])
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        learner((x, y)).value.backward()
        optimizer.step()

    return step


def row_of(case: str, rounds: int) -> dict[str, Any]:
    """Time, products and bytes of one case."""
    steps = {"bp": step_of(case, Backprop()), "dfa": step_of(case, DirectFeedbackAlignment(**CASES[case][3]))}
    seconds = measure(steps, rounds, case)
    ratios = [a / b for a, b in zip(seconds["dfa"], seconds["bp"], strict=True)]
    products = {name: _products(step) for name, step in steps.items()}
    return {
        "case": case,
        "bp_ms": 1e3 * statistics.median(seconds["bp"]),
        "dfa_ms": 1e3 * statistics.median(seconds["dfa"]),
        "ratio": statistics.median(ratios),
        "spread": statistics.quantiles(ratios, n=4)[::2],
        "limit": products["dfa"] / products["bp"],
        "bp_peak_bytes": peak_bytes(steps["bp"]),
        "dfa_peak_bytes": peak_bytes(steps["dfa"]),
        "rounds": rounds,
    }


def _products(step: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows."""
    table = Table(title=f"direct feedback / backprop, one step, 1 thread, torch {torch.__version__}")
    for column in ("case", "bp ms", "dfa ms", "ratio", "quartiles", "limit", "bp MB", "dfa MB"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for r in rows:
        low, high = r["spread"]
        times = f"{r['bp_ms']:.0f}", f"{r['dfa_ms']:.0f}", f"{r['ratio']:.3f}", f"{low:.3f}-{high:.3f}"
        sizes = (f"{r[key] / 1e6:.0f}" for key in ("bp_peak_bytes", "dfa_peak_bytes"))
        table.add_row(r["case"], *times, f"{r['limit']:.3f}", *sizes)
    Console(width=100).print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    rows = [row_of(case, options.rounds) for case in options.cases.split(",")]
    show(rows)
    if options.json:
        write_text(
            options.json, json.dumps({"rows": rows, "torch": torch.__version__, "threads": 1}, indent=1), "--json"
        )


if __name__ == "__main__":
    main()
