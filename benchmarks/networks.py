"""The networks of the step benchmark, and the ratios that their number of products allows."""

from itertools import pairwise

import torch
from torch import nn

BATCH = 128


def mlp() -> nn.Sequential:
    """784-1024-1024-1024-10."""
    widths = [784, 1024, 1024, 1024]
    hidden = [nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(widths)]
    return nn.Sequential(*hidden, nn.Linear(1024, 10))


def lenet() -> nn.Sequential:
    """Convolutions 32-64-128 of 3x3 with pools, 256 units: BioTorch's LeNet for CIFAR."""
    return nn.Sequential(
        _conv(3, 32, 0, nn.MaxPool2d(2)),
        _conv(32, 64, 0, nn.MaxPool2d(2)),
        _conv(64, 128, 0, nn.AdaptiveAvgPool2d(1)),
        nn.Flatten(),
        nn.Sequential(nn.Linear(128, 256), nn.ReLU()),
        nn.Linear(256, 10),
    )


def vgg() -> nn.Sequential:
    """32, 32, M, 64, 64, M, 128, 128, M, 256, 10."""
    widths = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    convs = [_conv(i, o, 1, nn.MaxPool2d(2) if k % 2 else None) for k, (i, o) in enumerate(widths)]
    return nn.Sequential(*convs, nn.Flatten(), nn.Sequential(nn.Linear(2048, 256), nn.ReLU()), nn.Linear(256, 10))


def group_norm() -> nn.Sequential:
    """FLFA's small network: two convolutions of 32, normalised in groups of 4, 256 units."""
    blocks = [
        nn.Sequential(nn.Conv2d(i, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU(), nn.MaxPool2d(2)) for i in (3, 32)
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Sequential(nn.Linear(2048, 256), nn.ReLU()), nn.Linear(256, 10))


def _conv(inputs: int, outputs: int, padding: int, pool: nn.Module | None) -> nn.Sequential:
    block = [nn.Conv2d(inputs, outputs, 3, padding=padding), nn.ReLU()]
    return nn.Sequential(*block, *([pool] if pool else []))


NETWORKS = {"mlp": (mlp, (784,)), "lenet": (lenet, (3, 32, 32)), "vgg": (vgg, (3, 32, 32))}
NETWORKS["group_norm"] = (group_norm, (3, 32, 32))


def arithmetic_limit(rule: str, name: str) -> float:
    """Products of a step of the rule relative to those of backprop, computed from the shapes.

    F_l is the number of products of the forward pass of layer l, F their sum, P that of the feedback projections.
    Backprop: 3F - F_1 (the first layer needs no input gradient). Feedback alignment and sign symmetry: the same. Direct
    feedback: 2F + P, plus the input gradient of the last layer if there is no stop-gradient before it. Forward-Forward
    without a head: two samples for one, so 4F - 2F_1, or 4F if the first layer is a convolution, with F that of the
    hidden layers.
    """
    build, shape = NETWORKS[name]
    network, units = build(), []
    layers = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    forward = []
    for layer in layers:
        layer.register_forward_hook(lambda m, a, out: forward.append(_macs(m, out)))
    for block in network[:-1]:
        if not isinstance(block, nn.Flatten):
            block.register_forward_hook(lambda m, a, out: units.append(out[0].numel()))
    with torch.no_grad():
        network(torch.zeros(1, *shape))
    total, first = sum(forward), forward[0]
    backprop = 3 * total - first
    if rule == "ff":
        return (4 * (total - forward[-1]) - 2 * first * isinstance(layers[0], nn.Linear)) / backprop
    return (2 * total + 10 * sum(units)) / backprop if rule in ("dfa", "drtp") else 1.0


def _macs(layer: nn.Linear | nn.Conv2d, out: torch.Tensor) -> int:
    return out[0].numel() * layer.weight[0].numel()
