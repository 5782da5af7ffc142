"""Convolutions with pools, one linear layer, the head: the CNNs of several papers, layer by layer."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

from torch import nn

from lit_fa.errors import UserError
from lit_fa.networks.parts import (
    Activation,
    BlockNetwork,
    ImageSize,
    Init,
    choice,
    conv_block,
    height_and_width,
    initialised,
    linear_block,
)
from lit_fa.networks.registry import register

Pool = Literal["max", "avg", "none"]
POOLS: dict[Pool, Callable[[], nn.Module] | None] = {
    "max": partial(nn.MaxPool2d, 2),
    "avg": partial(nn.AvgPool2d, 2),
    "none": None,
}


@register
def conv_linear(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    channels: Sequence[int] = (64, 128, 64),
    kernels: Sequence[int] = (3, 3, 3),
    paddings: Sequence[int] = (1, 1, 1),
    strides: Sequence[int] | None = None,
    pools: Sequence[Pool] = ("max", "max", "avg"),
    units: int = 256,
    activation: Activation = "relu",
    bias: bool = True,
    init: Init = "default",
) -> BlockNetwork:
    """By default DLL's CNN for CIFAR-10 (Lv et al. 2025), apart from its activation and its lack of biases.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: side, or (height, width), in pixels.
        channels: of each convolution.
        kernels: side of each convolution's kernel.
        paddings: of each convolution.
        strides: of each convolution; None: 1.
        pools: after each convolution, over 2 x 2 with stride 2: `max`, `avg` or `none`.
        units: of the linear layer.
        activation: name, see `parts.ACTIVATIONS`.
        bias: whether layers have a bias.
        init: `default`, `xavier` or `kaiming`.

    Raises:
        UserError: lists of unequal lengths, or images that leave no map.
    """
    size = height_and_width("conv_linear", img_size)
    strides = [1] * len(channels) if strides is None else strides
    if len({len(each) for each in (channels, kernels, paddings, strides, pools)}) != 1 or not channels:
        raise UserError("conv_linear: write channels, kernels, paddings, strides and pools for each convolution")
    kinds = [choice("pool", pool, POOLS) for pool in pools]
    widths, blocks, sides = pairwise([in_chans, *channels]), [], list(size)
    for (i, o), kernel, padding, stride, kind in zip(widths, kernels, paddings, strides, kinds, strict=True):
        options: dict[str, Any] = {"kernel": kernel, "padding": padding, "stride": stride, "bias": bias}
        blocks.append(conv_block(i, o, activation=activation, pool=kind() if kind else None, **options))
        sides = [((side + 2 * padding - kernel) // stride + 1) // (2 if kind else 1) for side in sides]
    if min(sides) < 1:
        raise UserError(f"conv_linear: images of {img_size} pixels leave no map: use larger images or fewer pools")
    blocks.append(linear_block(channels[-1] * sides[0] * sides[1], units, bias=bias, activation=activation))
    return initialised(BlockNetwork(blocks, nn.Linear(units, num_classes, bias=bias), num_classes), init)
