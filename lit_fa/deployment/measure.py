"""Comparison of networks: parameters, multiply-adds and time."""

import statistics
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lit_fa.deployment.cost import macs, ratio, turns
from lit_fa.deployment.simplify import dense_form, fold_batch_norm, without_rule
from lit_fa.layers.factored import factored_layers, replace


@torch.no_grad()
def compared(networks: Mapping[str, nn.Module], example: Tensor, rounds: int = 30) -> dict[str, dict[str, float]]:
    """Name to parameters, multiply-adds per sample, milliseconds per batch (median), and ratio to the first network.

    The networks alternate; the ratio of times is the median over the rounds.

    Args:
        networks: name to network, in evaluation mode.
        example: (n, ...) the timed batch.
        rounds: number of timings.
    """
    seconds = dict(zip(networks, turns([*networks.values()], example, rounds), strict=True))
    first = next(iter(seconds.values()))
    return {
        name: {
            "parameters": sum(p.numel() for p in network.parameters()),
            "macs": macs(network, example) / len(example),
            "ms": 1e3 * statistics.median(seconds[name]),
            "ratio": ratio(seconds[name], first),
        }
        for name, network in networks.items()
    }


def dense_twin(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy of the network with every factored layer merged and batch normalisation folded."""
    copy = without_rule(network).eval()
    for layer in factored_layers(copy).values():
        replace(copy, layer, dense_form(layer))
    return fold_batch_norm(copy, example)
