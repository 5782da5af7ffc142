"""Small convolutional networks: BioTorch's LeNets, and those of the authors of SSA, FLFA, PEPITA, Mono-Forward, CCL."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from lit_fa.errors import UserError
from lit_fa.networks.parts import (
    Activation,
    BlockNetwork,
    ImageSize,
    Init,
    activation_named,
    choice,
    conv_block,
    height_and_width,
    initialised,
    layers,
    linear_block,
)
from lit_fa.networks.registry import register


@register
def lenet(
    *,
    num_classes: int = 10,
    in_chans: int = 1,
    img_size: ImageSize = 28,
    activation: Activation = "relu",
    bias: bool = True,
    init: Init = "default",
) -> BlockNetwork:
    """LeNet-5 as BioTorch trains it on (Fashion-)MNIST: convolutions 6-16-120 of 5x5, then 84 units (61,706 weights).

    Its tables resize images to 32 x 32. Here images of 28 x 28 have two pixels of padding in the first convolution,
    which gives maps of the same sizes.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: 28 or 32.
        activation: name, see `parts.ACTIVATIONS`.
        bias: whether convolutions and linear layers have a bias.
        init: `default`, `xavier` (as BioTorch, which also sets every bias to one; we do not) or `kaiming`.

    Raises:
        UserError: for another image size or an unknown name.
    """
    size = height_and_width("lenet", img_size)
    if size not in [(28, 28), (32, 32)]:
        raise UserError(f"lenet takes images of 28 x 28 or 32 x 32 pixels, not {size[0]} x {size[1]}: resize them")
    padding = 2 if size == (28, 28) else 0
    common: dict[str, Any] = {"bias": bias, "activation": activation}
    blocks = [
        conv_block(in_chans, 6, kernel=5, padding=padding, pool=nn.MaxPool2d(2), **common),
        conv_block(6, 16, kernel=5, padding=0, pool=nn.MaxPool2d(2), **common),
        conv_block(16, 120, kernel=5, padding=0, **common),
        linear_block(120, 84, **common),
    ]
    return initialised(BlockNetwork(blocks, nn.Linear(84, num_classes, bias=bias), num_classes), init)


@register
def lenet_wide(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "relu",
    bias: bool = True,
    init: Init = "default",
) -> BlockNetwork:
    """BioTorch's LeNet for CIFAR-10: convolutions 32-64-128 of 3x3 without padding, each with a pool, then 256 units.

    The first two pools are maxima over 2x2, the last is the mean over the map. Arguments as for `lenet`; any image of
    at least 18 x 18 pixels.
    """
    height_and_width("lenet_wide", img_size, at_least=18)
    common: dict[str, Any] = {"bias": bias, "activation": activation}
    blocks = [
        conv_block(in_chans, 32, padding=0, pool=nn.MaxPool2d(2), **common),
        conv_block(32, 64, padding=0, pool=nn.MaxPool2d(2), **common),
        conv_block(64, 128, padding=0, pool=nn.AdaptiveAvgPool2d(1), **common),
        linear_block(128, 256, **common),
    ]
    return initialised(BlockNetwork(blocks, nn.Linear(256, num_classes, bias=bias), num_classes), init)


def three_convolutions(
    widths: tuple[int, int, int],
    units: int,
    num_classes: int,
    in_chans: int,
    img_size: ImageSize,
    *,
    activation: Activation,
    batch_norm: bool,
    bias: bool,
    init: Init,
) -> BlockNetwork:
    """Three 3x3 convolutions of the given widths, a mean to 2x2, one linear layer of `units`, the head."""
    height_and_width("a network of three convolutions", img_size, at_least=4)
    common: dict[str, Any] = {"bias": bias, "batch_norm": batch_norm, "activation": activation}
    first, second, third = widths
    blocks = [
        conv_block(in_chans, first, pool=nn.MaxPool2d(2), **common),
        conv_block(first, second, pool=nn.MaxPool2d(2), **common),
        conv_block(second, third, pool=nn.AdaptiveAvgPool2d(2), **common),
        linear_block(4 * third, units, **common),
    ]
    return initialised(BlockNetwork(blocks, nn.Linear(units, num_classes, bias=bias), num_classes), init)


@register
def conv3_32_64_128(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "leaky_relu",
    batch_norm: bool = True,
    bias: bool = True,
    init: Init = "default",
) -> BlockNetwork:
    """The small network of SSA's authors (LLS-DNN's SmallConv): 3x3 convolutions 32-64-128, then 512 units.

    Convolution, batch normalisation, leaky ReLU; maximum over 2x2 after the first two, mean to 2x2 after the third;
    the linear layer of 512 is normalised as well. 0.36 M weights.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: at least 4.
        activation: name, see `parts.ACTIVATIONS`.
        batch_norm: whether all layers except the head are normalised (then they have no bias).
        bias: whether layers without normalisation have a bias.
        init: `default`, `xavier` or `kaiming`.
    """
    options: dict[str, Any] = {"activation": activation, "batch_norm": batch_norm, "bias": bias, "init": init}
    return three_convolutions((32, 64, 128), 512, num_classes, in_chans, img_size, **options)


@register
def conv3_96_192_512(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "leaky_relu",
    batch_norm: bool = True,
    bias: bool = True,
    init: Init = "default",
) -> BlockNetwork:
    """The wider form of `conv3_32_64_128` (LLS-DNN's SmallConvL): convolutions 96-192-512, then 1024 units; 3.2 M."""
    options: dict[str, Any] = {"activation": activation, "batch_norm": batch_norm, "bias": bias, "init": init}
    return three_convolutions((96, 192, 512), 1024, num_classes, in_chans, img_size, **options)


@register
def conv2_group_norm(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "relu",
    groups: int = 8,
    init: Init = "default",
) -> BlockNetwork:
    """The small network of FLFA's authors: two 3x3 convolutions of 32, each normalised and pooled, then 256 units.

    0.54 M weights for 32 x 32 pixels. GroupNorm has no running statistics, so clients can be stacked, and the server
    averages only weights. Kernel size and number of groups are assumed.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: at least 4.
        activation: name, see `parts.ACTIVATIONS`.
        groups: of each normalisation; a divisor of 32.
        init: `default`, `xavier` or `kaiming`.

    Raises:
        UserError: for groups that do not divide 32, or images that are too small.
    """
    height, width = height_and_width("conv2_group_norm", img_size, at_least=4)
    if groups < 1 or 32 % groups:
        raise UserError(f"conv2_group_norm: groups divide 32, not {groups}")
    blocks = [
        layers(
            conv=nn.Conv2d(channels, 32, 3, padding=1),
            norm=nn.GroupNorm(groups, 32),
            activation=activation_named(activation),
            pool=nn.MaxPool2d(2),
        )
        for channels in (in_chans, 32)
    ]
    blocks.append(linear_block(32 * (height // 4) * (width // 4), 256, activation=activation))
    return initialised(BlockNetwork(blocks, nn.Linear(256, num_classes), num_classes), init)


@register
def conv1_32(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "relu",
    bias: bool = False,
    init: Init = "default",
) -> BlockNetwork:
    """The convolutional network of PEPITA's authors: 32 kernels of 5x5, activation, maximum over 2x2, linear head.

    46,880 weights for MNIST, 65,120 for CIFAR-10.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: at least 6.
        activation: name, see `parts.ACTIVATIONS`.
        bias: of convolution and head.
        init: see `parts.INITS`.

    Raises:
        UserError: for an unknown name, or images that are too small.
    """
    height, width = height_and_width("conv1_32", img_size, at_least=6)
    pool = nn.MaxPool2d(2)
    block = conv_block(in_chans, 32, kernel=5, padding=0, bias=bias, activation=activation, pool=pool)
    units = 32 * ((height - 4) // 2) * ((width - 4) // 2)
    head = layers(flatten=nn.Flatten(), linear=nn.Linear(units, num_classes, bias=bias))
    return initialised(BlockNetwork([block], head, num_classes), init)


@register
def conv_pool(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    widths: Sequence[int] = (64, 128, 256, 512),
    pool: Literal["max", "average"] = "max",
    activation: Activation = "relu",
    bias: bool = True,
    head_bias: bool | None = None,
    init: Init = "default",
) -> BlockNetwork:
    """3x3 convolutions, each with an activation and a pool over 2x2, then a linear head on the flattened map.

    The network of Mono-Forward's authors has the default widths and average pools; that of counter-current learning has
    128, 128, 256, 256, 512, maxima and no bias.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: at least 2 to the power of the number of convolutions.
        widths: channels of each convolution.
        pool: `max` or `average`.
        activation: name, see `parts.ACTIVATIONS`.
        bias: of all layers, including the head.
        head_bias: of the head; None: as `bias`.
        init: see `parts.INITS`.

    Raises:
        UserError: for an unknown name, no convolution, or images that are too small.
    """
    if not widths or min(widths) < 1:
        raise UserError(f"conv_pool: widths is a list of positive numbers, one for each convolution, not {[*widths]}")
    height, width = height_and_width("conv_pool", img_size, at_least=2 ** len(widths))
    kind = choice("pool", pool, {"max": nn.MaxPool2d, "average": nn.AvgPool2d})
    channels = [in_chans, *widths]
    blocks = [
        conv_block(i, o, bias=bias, activation=activation, pool=kind(2)) for i, o in zip(channels, widths, strict=False)
    ]
    units = widths[-1] * (height >> len(widths)) * (width >> len(widths))
    linear = nn.Linear(units, num_classes, bias=bias if head_bias is None else head_bias)
    return initialised(BlockNetwork(blocks, layers(flatten=nn.Flatten(), linear=linear), num_classes), init)
