"""The stages of a convolutional network: its blocks by the size of their maps, and the layer that ends each stage."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_fa.layers.feedback import CONVS, WEIGHT_LAYERS
from lit_fa.layers.observing import Call, observing, recording, unfrozen
from lit_fa.layers.taps import chain_of


def last_of_stages(network: nn.Module, example: Tensor) -> list[str]:
    """The last ungrouped convolution of the last block of each stage, then the read-out, in the order of the network.

    A stage is the blocks whose maps have one size: in a bottleneck ResNet the 1x1 `conv3` of the last block of each, in
    a basic one its `conv2`, in mobile networks the projection. A block's last convolution ends its longest path, in
    layers; a projection of the shortcut beside it ends a shorter one, whatever it is called. Of paths of one length
    the larger kernel counts, then the later call. Depthwise layers are none.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(18, 3))
    >>> import torch
    >>> last_of_stages(network, torch.zeros(2, 1, 8, 8))
    ['0', '2', '4']
    """
    layers = [name for name, module in network.named_modules() if isinstance(module, WEIGHT_LAYERS)]
    with unfrozen(network), observing(network), torch.enable_grad(), recording(network, layers) as seen:
        network(example.clone().requires_grad_(example.is_floating_point()))
        depths = _depths(seen)
    blocks, ends = [*chain_of(network)], {}
    for order, (call, depth) in enumerate(zip(seen, depths, strict=True)):
        layer = network.get_submodule(call.name)
        if isinstance(layer, CONVS) and layer.groups == 1:
            block = next((name for name in blocks if f"{call.name}.".startswith(f"{name}.")), call.name)
            end = (depth, layer.kernel_size, order, call.name, tuple(call.tensor.shape[2:]))
            ends[block] = max(ends.get(block, end), end)
    last = {size: name for *_, name, size in sorted(ends.values())}
    kept = {*last.values(), *([seen[-1].name] if seen else [])}
    return [name for name in dict.fromkeys(call.name for call in seen) if name in kept]


def _depths(seen: list[Call]) -> list[int]:
    """Of each call, the number of called layers on the longest path from the network's input through it."""
    nodes = [call.tensor.grad_fn for call in seen]
    made, depth = {*nodes}, {None: 0}
    for node in _from_the_input(nodes):
        depth[node] = (node in made) + max((depth[child] for child, _ in node.next_functions), default=0)
    return [depth[node] for node in nodes]


def _from_the_input(ends: Iterable[Node | None]) -> list[Node]:
    """All nodes behind `ends`, each after those that it reads."""
    ordered, seen, stack = [], {None}, [(node, False) for node in ends]
    while stack:
        node, read = stack.pop()
        if read:
            ordered.append(node)
        elif node not in seen:
            seen.add(node)
            stack += [(node, True), *((child, False) for child, _ in node.next_functions)]
    return ordered
