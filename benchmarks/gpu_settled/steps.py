"""Time of one training step of every rule relative to backprop, and its share of the device's measured peak."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step import RULES
from lit_fa.networks import create_network
from lit_fa.rules import Does, Progress
from lit_fa.rules.learner import Learner

NETWORKS: dict[str, tuple[str, int, dict[str, Any]]] = {  # timm name, image size, arguments
    "VGG-13": ("vgg13_cifar", 32, {}),
    "ResNet-32": ("resnet32_cifar", 32, {"shortcut": "B"}),
    "ViT-Tiny": ("vit_tiny_patch16_224", 224, {}),
}
WARM = 5


def peak_flops(device: torch.device, size: int = 8192) -> float:
    """Flops per second of a square matrix product, in bf16 on a graphics card: the peak that shares refer to."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    return 2 * size**3 / statistics.median(timed(lambda: a @ b, 10, device))


def rows_of(
    network: str, rules: list[str], batch: int, rounds: int, peak: float, device: torch.device, size: int | None = None
) -> list[dict[str, Any]]:
    """One row for each rule on a network; a rule that the network does not allow has the reason."""
    name, pixels, arguments = NETWORKS[network]
    problem = (name, size or pixels, arguments, batch, device)
    reference = statistics.median(timed(step_of("bp", *problem), rounds, device))
    rows = []
    for rule in rules:
        row: dict[str, Any] = {"network": network, "rule": rule, "batch": batch}
        try:
            step = step_of(rule, *problem)
            seconds = statistics.median(timed(step, rounds, device))
            with FlopCounterMode(display=False) as counter:
                step()
            row |= {"ms": round(1e3 * seconds, 3), "ratio": round(seconds / reference, 3)}
            row |= {"flops": counter.get_total_flops()}
            row |= {"share_of_peak": round(counter.get_total_flops() / seconds / peak, 4)}
        except Exception as error:  # one failed rule must not end the session
            row["reason"] = " ".join(str(error).split())[:200]
        rows.append(row)
        gc.collect()
    return rows


def step_of(
    rule: str, name: str, pixels: int, arguments: dict[str, Any], batch: int, device: torch.device
) -> Callable[[], None]:
    """A training step: zero_grad, surrogate, backward pass, gradient edits, SGD; bf16 and channels_last on a card."""
    torch.manual_seed(0)
    network = create_network(name, 10, (3, pixels, pixels), **arguments).to(device)
    x, y = torch.randn(batch, 3, pixels, pixels, device=device), torch.randint(10, (batch,), device=device)
    fast = device.type == "cuda"
    if fast:
        network, x = network.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    learner = Learner(network, RULES[rule](), x[:2]).to(device)
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    numbers = itertools.count()

    def step() -> None:
        number = next(numbers)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            value = learner((x, y)).value
        value.backward()
        learner.edit_gradients(Progress(number))
        optimizer.step()
        if Does.EVOLVES in learner.rule.does:
            learner.after_step(Progress(number + 1))

    return step


def timed(step: Callable[[], Any], rounds: int, device: torch.device) -> list[float]:
    """Seconds of each of `rounds` steps, after a warm-up."""
    seconds = []
    for turn in range(-min(WARM, rounds - 1), rounds):
        _finish(device)
        start = time.perf_counter()
        step()
        _finish(device)
        if turn >= 0:
            seconds.append(time.perf_counter() - start)
    return seconds


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
