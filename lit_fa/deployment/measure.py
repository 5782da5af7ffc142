"""Before and after: parameters, products, and seconds side by side."""

import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lit_fa.deployment.simplify import dense_form, fold_batch_norm, macs, without_rule
from lit_fa.layers.factored import factored_layers


@torch.no_grad()
def compared(networks: Mapping[str, nn.Module], example: Tensor, rounds: int = 30) -> dict[str, dict[str, float]]:
    """Network to its parameters, multiply-adds a sample, milliseconds a batch (median) and ratio to the first's time.

    The networks take turns; the ratio is the median over the rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    names = [*networks]
    for turn in range(-3, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            networks[name](example)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    first = seconds[names[0]]
    return {
        name: {
            "parameters": sum(p.numel() for p in network.parameters()),
            "macs": macs(network, example) / len(example),
            "ms": 1e3 * statistics.median(seconds[name]),
            "ratio": statistics.median(a / b for a, b in zip(seconds[name], first, strict=True)),
        }
        for name, network in networks.items()
    }


def dense_twin(network: nn.Module, example: Tensor) -> nn.Module:
    """The network with every factored layer merged, and nothing else changed: what dense training would have left."""
    made = without_rule(network).eval()
    for name, layer in factored_layers(made).items():
        made.set_submodule(name, dense_form(layer))
    return fold_batch_norm(made, example)
