"""The stages of a convolutional network, that is, blocks with maps of one size, and the last layer of each stage."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_fa.layers.feedback import CONVS, WEIGHT_LAYERS
from lit_fa.layers.graph import children
from lit_fa.layers.observing import Call, observing, recording, unfrozen
from lit_fa.layers.taps import chain_of


def last_of_stages(network: nn.Module, example: Tensor) -> list[str]:
    """The last ungrouped convolution of the last block of each stage, then the head, in the order of the network.

    In a bottleneck ResNet these are the 1x1 `conv3` of the last block of each stage, in a basic ResNet its `conv2`, in
    mobile networks the projection. The last convolution of a block is the one that ends its longest path, counted in
    layers; the projection of a shortcut ends a shorter path. Of paths of equal length the one with the larger kernel
    counts, then the later call. Depthwise convolutions do not count.

    Args:
        network: any module.
        example: (n, ...) inputs, whose values have no meaning.

    Returns:
        Names of layers.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(18, 3))
    >>> import torch
    >>> last_of_stages(network, torch.zeros(2, 1, 8, 8))
    ['0', '2', '4']
    """
    layers = [name for name, module in network.named_modules() if isinstance(module, WEIGHT_LAYERS)]
    with unfrozen(network), observing(network), torch.enable_grad(), recording(network, layers) as recorded:
        network(example.clone().requires_grad_(example.is_floating_point()))
        depths = _depths(recorded)
    blocks = [*chain_of(network)]
    ends: dict[str, tuple[int, tuple[int, ...], int, str, tuple[int, ...]]] = {}
    for order, (call, depth) in enumerate(zip(recorded, depths, strict=True)):
        layer = network.get_submodule(call.name)
        if isinstance(layer, CONVS) and layer.groups == 1:
            block = next((name for name in blocks if f"{call.name}.".startswith(f"{name}.")), call.name)
            end = (depth, layer.kernel_size, order, call.name, tuple(call.tensor.shape[2:]))
            ends[block] = max(ends.get(block, end), end)
    last = {size: name for *_, name, size in sorted(ends.values())}
    chosen = {*last.values(), *([recorded[-1].name] if recorded else [])}
    return [name for name in dict.fromkeys(call.name for call in recorded) if name in chosen]


def _depths(recorded: list[Call]) -> list[int]:
    """For each call, the number of recorded layers on the longest path from the network's input to its output."""
    nodes = [call.tensor.grad_fn for call in recorded]
    outputs = {*nodes}
    depth: dict[Node, int] = {}
    for node in _from_the_input(nodes):
        depth[node] = (node in outputs) + max((depth[child] for child in children(node)), default=0)
    return [depth.get(node, 0) for node in nodes]


def _from_the_input(ends: Iterable[Node | None]) -> list[Node]:
    """All nodes of the graphs of `ends`, each after the nodes that it reads."""
    ordered: list[Node] = []
    seen: set[Node] = set()
    stack = [(node, False) for node in ends if node is not None]
    while stack:
        node, read = stack.pop()
        if read:
            ordered.append(node)
        elif node not in seen:
            seen.add(node)
            stack += [(node, True), *((child, False) for child in children(node))]
    return ordered
