"""The stages of a convolutional network: its blocks by the size of their maps, and the layer that ends each stage."""

from torch import Tensor, nn

from lit_fa.layers.feedback import CONVS, WEIGHT_LAYERS
from lit_fa.layers.observing import calls
from lit_fa.layers.taps import chain_of

BESIDE = ("downsample", "shortcut")  # how networks call the projection beside a residual branch


def last_of_stages(network: nn.Module, example: Tensor) -> list[str]:
    """The last ungrouped convolution of the last block of each stage, then the read-out, in the order of the network.

    A stage is the blocks whose maps have one size: in a bottleneck ResNet the 1x1 `conv3` of the last block of each, in
    a basic one its `conv2`, in mobile networks the projection. Depthwise layers and projections of a shortcut are none.

    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(18, 3))
    >>> import torch
    >>> last_of_stages(network, torch.zeros(2, 1, 8, 8))
    ['0', '2', '4']
    """
    layers = [name for name, module in network.named_modules() if isinstance(module, WEIGHT_LAYERS)]
    seen, blocks = calls(network, example, layers), [*chain_of(network)]
    ends: dict[str, tuple[str, tuple[int, ...]]] = {}  # block to its last convolution and the size of its map
    for call in seen:
        if _ends_a_branch(call.name, network.get_submodule(call.name)):
            block = next((name for name in blocks if f"{call.name}.".startswith(f"{name}.")), call.name)
            ends[block] = (call.name, tuple(call.tensor.shape[2:]))
    last = {size: name for name, size in ends.values()}
    kept = {*last.values(), *([seen[-1].name] if seen else [])}
    return [name for name in dict.fromkeys(call.name for call in seen) if name in kept]


def _ends_a_branch(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, CONVS) and layer.groups == 1 and not any(word in name for word in BESIDE)
