"""ResNet-18 and ResNet-50 for small images: He et al. 2016's stages of 64 to 512 channels after a small stem.

The stem is a 3 x 3 convolution in place of the 7 x 7 convolution of stride two and the pool. Its stride is one below 64
pixels and two from 64 pixels on, so that 28, 32 and 64 pixels all give maps of 4 x 4 after the last stage. Papers on
CIFAR and on federated learning call this ResNet-18. The normalisation is BatchNorm or GroupNorm; the latter has no
running statistics to average.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from lit_fa.networks.parts import (
    Activation,
    BlockNetwork,
    ImageSize,
    Init,
    activation_named,
    choice,
    height_and_width,
    initialised,
    layers,
)
from lit_fa.networks.registry import register

Norm = Literal["batch", "group"]
NORMS: dict[Norm, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 32)}
WIDE = 64  # from this size on the stem halves the image


class Residual(nn.Module):
    """act(branch(x) + shortcut(x)); the shortcut projects if the shape changes."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module, activation: Activation) -> None:
        super().__init__()
        self.branch, self.shortcut, self.activation = branch, shortcut, activation_named(activation)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, in, h, w) -> (n, out, h / stride, w / stride)."""
        return self.activation(self.branch(maps) + self.shortcut(maps))


def basic(in_chans: int, width: int, stride: int, norm: Norm, activation: Activation) -> Residual:
    """Two 3x3 convolutions to `width` channels."""
    make = NORMS[norm]
    branch = layers(
        conv1=nn.Conv2d(in_chans, width, 3, stride, 1, bias=False),
        norm1=make(width),
        activation1=activation_named(activation),
        conv2=nn.Conv2d(width, width, 3, 1, 1, bias=False),
        norm2=make(width),
    )
    return Residual(branch, shortcut(in_chans, width, stride, norm), activation)


def bottleneck(in_chans: int, width: int, stride: int, norm: Norm, activation: Activation) -> Residual:
    """1x1, 3x3 (with the stride) and 1x1 convolutions to four times `width` channels."""
    make = NORMS[norm]
    branch = layers(
        conv1=nn.Conv2d(in_chans, width, 1, bias=False),
        norm1=make(width),
        activation1=activation_named(activation),
        conv2=nn.Conv2d(width, width, 3, stride, 1, bias=False),
        norm2=make(width),
        activation2=activation_named(activation),
        conv3=nn.Conv2d(width, 4 * width, 1, bias=False),
        norm3=make(4 * width),
    )
    return Residual(branch, shortcut(in_chans, 4 * width, stride, norm), activation)


def shortcut(in_chans: int, out_chans: int, stride: int, norm: Norm) -> nn.Module:
    """The identity, or a normalised 1x1 convolution if the shape changes."""
    if stride == 1 and in_chans == out_chans:
        return nn.Identity()
    return layers(conv=nn.Conv2d(in_chans, out_chans, 1, stride, bias=False), norm=NORMS[norm](out_chans))


def wide_network(
    block: Callable[[int, int, int, Norm, Activation], Residual],
    expansion: int,
    depths: tuple[int, ...],
    options: dict[str, Any],
) -> BlockNetwork:
    """Stem, four stages, the mean over the map, the head."""
    norm, activation = options["norm"], options["activation"]
    size = height_and_width("a ResNet", options["img_size"], at_least=16)
    choice("norm", norm, NORMS)
    stem = nn.Conv2d(options["in_chans"], 64, 3, 2 if min(size) >= WIDE else 1, 1, bias=False)
    blocks: list[nn.Module] = [layers(conv=stem, norm=NORMS[norm](64), activation=activation_named(activation))]
    width = 64
    for stage, depth in enumerate(depths):
        for number in range(depth):
            blocks.append(block(width, 64 << stage, 2 if stage and not number else 1, norm, activation))
            width = expansion * (64 << stage)
    head = layers(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(width, options["num_classes"]))
    return initialised(BlockNetwork(blocks, head, options["num_classes"]), options["init"])


@register
def resnet18_small(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "relu",
    norm: Norm = "batch",
    init: Init = "default",
) -> BlockNetwork:
    """ResNet-18 for images of 28 to 64 pixels: 11.2 M weights.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: side, or (height, width), at least 16 pixels.
        activation: name, see `parts.ACTIVATIONS`.
        norm: `batch`, or `group` (32 groups).
        init: `default`, `xavier` or `kaiming` (normal, fan_in: FLFA's code), see `parts.INITS`.
    """
    return wide_network(basic, 1, (2, 2, 2, 2), locals())


@register
def resnet50_small(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "relu",
    norm: Norm = "batch",
    init: Init = "default",
) -> BlockNetwork:
    """ResNet-50 for images of 28 to 64 pixels: 23.5 M weights. Arguments as for `resnet18_small`."""
    return wide_network(bottleneck, 4, (3, 4, 6, 3), locals())
