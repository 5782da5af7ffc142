"""VGG-like stacks of 3x3 convolutions for small images."""

from typing import Any

from torch import nn

from lit_fa.networks.parts import (
    Activation,
    BlockNetwork,
    ImageSize,
    Init,
    conv_block,
    height_and_width,
    initialised,
    layers,
    linear_block,
)
from lit_fa.networks.registry import register

VGG13 = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))


def stack(stages: tuple[tuple[int, ...], ...], in_chans: int, **options: Any) -> list[nn.Module]:
    """One block per convolution; the last of each stage ends with a maximum over 2x2."""
    blocks: list[nn.Module] = []
    for stage in stages:
        for position, out_chans in enumerate(stage, start=1):
            pool = nn.MaxPool2d(2) if position == len(stage) else None
            blocks.append(conv_block(in_chans, out_chans, pool=pool, **options))
            in_chans = out_chans
    return blocks


@register
def vgg_small(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "relu",
    bias: bool = True,
    init: Init = "default",
) -> BlockNetwork:
    """Convolutions 32-32-pool-64-64-pool-128-128-pool, then 256 units: a network for comparing step times.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: side, or (height, width), at least 8 pixels.
        activation: name, see `parts.ACTIVATIONS`.
        bias: whether convolutions and linear layers have a bias.
        init: `default`, `xavier` or `kaiming`, see `parts.INITS`.
    """
    height, width = height_and_width("vgg_small", img_size, at_least=8)
    common: dict[str, Any] = {"bias": bias, "activation": activation}
    blocks = stack(((32, 32), (64, 64), (128, 128)), in_chans, **common)
    blocks.append(linear_block(128 * (height // 8) * (width // 8), 256, **common))
    return initialised(BlockNetwork(blocks, nn.Linear(256, num_classes, bias=bias), num_classes), init)


@register
def vgg13_cifar(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "relu",
    batch_norm: bool = True,
    bias: bool = True,
    init: Init = "default",
) -> BlockNetwork:
    """VGG-13 (Simonyan & Zisserman 2015, configuration B) with one linear layer 512-classes as head: 9.41 M weights.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: side, or (height, width), at least 32 pixels; larger final maps are averaged.
        activation: name, see `parts.ACTIVATIONS`.
        batch_norm: whether convolutions are normalised (then they have no bias).
        bias: whether layers without normalisation have a bias.
        init: `default`, `xavier` or `kaiming`, see `parts.INITS`.
    """
    height_and_width("vgg13_cifar", img_size, at_least=32)
    blocks = stack(VGG13, in_chans, bias=bias, batch_norm=batch_norm, activation=activation)
    head = layers(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(512, num_classes, bias=bias))
    return initialised(BlockNetwork(blocks, head, num_classes), init)
