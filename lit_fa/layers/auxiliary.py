"""Auxiliary networks, through which a local loss reads the output of a block.

The features of a block's output are a vector (d), tokens (t, d) averaged to one vector, or a map (c, h, w). If a block
ends with Flatten, the features are the map before it. Letters: n batch, t tokens, d features, c channels, h height, w
width.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from lit_fa.layers.feedback import WEIGHT_LAYERS
from lit_fa.layers.observing import calls
from lit_fa.layers.taps import Block

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Tanh,
    nn.Hardtanh, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid,
)  # fmt: skip
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Unit:
    """Description of a block for a local loss.

    Attributes:
        name: of the module that ends the block.
        shape: of the features of its output, (d) or (c, h, w).
        copied: shape (d) or (c, h, w) of a copy of the block: if the block pools its map to a vector, that of its last
            convolution.
        activation: the first activation that runs in it; ReLU if there is none.
    """

    name: str
    shape: Shape
    copied: Shape
    activation: nn.Module

    def features(self, output: Tensor, channels: str = "first") -> Tensor:
        """The features (n, d) or (n, c, h, w) of an output (n, ...) of the block."""
        if output.ndim == 4:
            return output.movedim(-1, 1) if channels == "last" else output
        if output.ndim == 3:
            return output.mean(1)
        return output.unflatten(1, self.shape) if len(self.shape) == 3 else output


def units(network: nn.Module, example: Tensor, blocks: list[Block], channels: str = "first") -> list[Unit]:
    """Describe each of the blocks, in their order, from one forward pass of `example`.

    Args:
        network: any module.
        example: (n, ...) one batch of inputs, whose values have no meaning.
        blocks: from `layers.taps.find_blocks`.
        channels: `first` or `last`, the position of the channels in maps.

    Raises:
        ValueError: an output that is not a vector, tokens or a two-dimensional map.
    """
    modules, ends = dict(network.named_modules()), {block.name: block for block in blocks}
    described: dict[str, Unit] = {}
    layer: tuple[nn.Module | None, Shape] = (None, ())
    activation: nn.Module | None = None
    for name, before, after in _shapes(network, example, {*ends}):
        module = modules[name]
        if isinstance(module, WEIGHT_LAYERS):
            layer = module, after
        if isinstance(module, ACTIVATIONS) and activation is None:
            activation = module
        if name in ends:
            shape = _features_shape(name, before if isinstance(module, nn.Flatten) else (), after, channels)
            pooled = len(shape) == 1 and isinstance(layer[0], nn.Conv2d)
            described[name] = Unit(name, shape, layer[1] if pooled else shape, activation or nn.ReLU())
            activation = None
    return [described[block.name] for block in blocks]


def pooled_classifier(shape: Shape, classes: int, limit: int) -> nn.Sequential:
    """A linear layer (d, classes) with zero weights; before it a map is average-pooled to at most `limit` units.

    The pool is that of Nøkland & Eidnes, see `pool_window`; a side that its window does not divide is padded with
    zeros.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(shape) == 3:
        window = pool_window(shape, limit)
        sizes = [math.ceil(side / k) for side, k in zip(shape[1:], window, strict=True)]
        padding = [k * (size - side // k) // 2 for side, k, size in zip(shape[1:], window, sizes, strict=True)]
        layers |= {"pool": nn.AvgPool2d(window, padding=(padding[0], padding[1])), "flatten": nn.Flatten()}
        shape = (shape[0] * math.prod(sizes),)
    linear = nn.Linear(shape[0], classes)
    nn.init.zeros_(linear.weight)
    return nn.Sequential(layers | {"linear": linear})


def readout(shape: Shape, classes: int) -> nn.Sequential:
    """A linear layer (d, classes) without bias on a vector, or on a map that is flattened."""
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=nn.Linear(math.prod(shape), classes, bias=False)))


def pool_window(shape: Shape, limit: int) -> tuple[int, int]:
    """(height, width) of the pool that leaves at most `limit` units of a map (c, h, w), if there is one.

    The height is doubled, then the width, and so on, up to the size of the side.

    >>> pool_window((128, 32, 32), 4096), pool_window((128, 16, 16), 4096), pool_window((16, 8, 8), 4096)
    ((8, 4), (4, 2), (1, 1))
    """
    channels, height, width = shape
    rows, columns, turn = 1, 1, 0
    while channels * math.ceil(height / rows) * math.ceil(width / columns) > limit and (rows, columns) != shape[1:]:
        if turn % 2 == 0:
            rows = min(2 * rows, height)
        else:
            columns = min(2 * columns, width)
        turn += 1
    return rows, columns


def auxiliary_network(shape: Shape, sources: list[Unit], classes: int) -> nn.Sequential:
    """A sequence of layers with the types and widths of the sources, then a linear classifier of the averaged map.

    Args:
        shape: of the input features, (d) or (c, h, w).
        sources: the blocks to copy; a map is copied as a 3x3 convolution (He's normal init, fan out, no bias), batch
            normalisation and activation, a vector as a linear layer and activation. After a vector, a map is copied as
            a vector.
        classes: number of logits.
    """
    layers: list[nn.Module] = []
    for source in sources:
        added, shape = _copy_of(source, shape)
        layers.append(added)
    return nn.Sequential(*layers, *_averaged(shape), nn.Linear(shape[0], classes))


def drawn(make: Callable[[], nn.Module], generator: Generator) -> nn.Module:
    """The module that `make` returns, initialised on the CPU from `generator`; the global random state is unchanged."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also change the states of the devices
        return make()


def _copy_of(source: Unit, shape: Shape) -> tuple[nn.Sequential, Shape]:
    width, activation = source.copied[0], copy.deepcopy(source.activation)
    if len(source.copied) == 1 or len(shape) == 1:
        return nn.Sequential(*_averaged(shape), nn.Linear(shape[0], width), activation), (width,)
    # reduces the map towards the source's map by a stride of at most two, as the authors' code
    stride = [min(2, max(1, round(a / b))) for a, b in zip(shape[1:], source.copied[1:], strict=True)]
    conv = nn.Conv2d(shape[0], width, 3, stride=(stride[0], stride[1]), padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    # no running statistics: the auxiliary network is not used for prediction, and the rule's scalar must be pure
    norm = nn.BatchNorm2d(width, track_running_stats=False)
    size = [math.ceil(side / s) for side, s in zip(shape[1:], stride, strict=True)]
    return nn.Sequential(conv, norm, activation), (width, *size)


def _averaged(shape: Shape) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if len(shape) == 3 else []


def _features_shape(name: str, flattened: Shape, shape: Shape, channels: str) -> Shape:
    if len(flattened) == 3 and math.prod(flattened[1:]) > 1 and math.prod(flattened) == math.prod(shape):
        return flattened
    if len(shape) not in (1, 2, 3):
        raise ValueError(f"a local loss reads vectors, tokens and maps; after {name} a sample is {len(shape)}-D")
    if len(shape) == 3:
        return (shape[2], *shape[:2]) if channels == "last" else shape
    return shape[-1:]


def _shapes(network: nn.Module, example: Tensor, ends: set[str]) -> list[tuple[str, Shape, Shape]]:
    """(name, shape of the first input, shape of the output), without the batch, of ends, layers and activations."""
    kinds = (*WEIGHT_LAYERS, *ACTIVATIONS)
    names = [name for name, module in network.named_modules() if name in ends or isinstance(module, kinds)]
    return [(call.name, _shape(call.inputs), _shape(call.output)) for call in calls(network, example, names)]


def _shape(value: object) -> Shape:
    first = value[0] if isinstance(value, tuple) and value else value
    return tuple(first.shape[1:]) if isinstance(first, Tensor) else ()
