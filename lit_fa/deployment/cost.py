"""The cost of a forward pass: multiply-adds, and time compared with other networks."""

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def macs(module: nn.Module, x: Tensor) -> float:
    """Multiply-adds of a forward pass, by torch's flop counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() / 2


def turns(modules: Sequence[nn.Module], x: Tensor, rounds: int, warm: int = 3) -> list[list[float]]:
    """Seconds of the forward passes of each module, which alternate in every round; `warm` rounds do not count."""
    seconds: list[list[float]] = [[] for _ in modules]
    with torch.no_grad():
        for turn in range(-warm, rounds):
            for place in (*range(turn % len(modules), len(modules)), *range(turn % len(modules))):
                began = time.perf_counter()
                modules[place](x)
                if turn >= 0:
                    seconds[place].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds of the ratio of two times; noise that is longer than a round affects both."""
    return statistics.median(a / b for a, b in zip(seconds, base, strict=True))
