"""The residual networks of He et al. 2016 (section 4.2) for 32 x 32 images: 6 n + 2 layers, widths 16, 32, 64."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
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


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the new channels, half before and half after the old; no weights."""

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_chans - in_chans) // 2
        self.after = out_chans - in_chans - self.before

    def forward(self, maps: Tensor) -> Tensor:
        """(n, in, h, w) -> (n, out, h / stride, w / stride)."""
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def projection_shortcut(in_chans: int, out_chans: int, stride: int) -> nn.Sequential:
    """Option B: a 1x1 convolution, normalised."""
    return layers(conv=nn.Conv2d(in_chans, out_chans, 1, stride=stride, bias=False), norm=nn.BatchNorm2d(out_chans))


Shortcut = Literal["A", "B"]
SHORTCUTS: dict[Shortcut, Callable[[int, int, int], nn.Module]] = {"A": PadShortcut, "B": projection_shortcut}


class ResidualBlock(nn.Module):
    """act(norm(conv(act(norm(conv(x))))) + shortcut(x)); the shortcut is the identity if the shape does not change.

    It is one module, so a stop-gradient after it blocks both branches: no error reaches an earlier block through the
    shortcut.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int, activation: Activation, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_chans)
        self.activation1 = activation_named(activation)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_chans)
        same_shape = stride == 1 and in_chans == out_chans
        change = choice("shortcut", shortcut, SHORTCUTS)
        self.shortcut = nn.Identity() if same_shape else change(in_chans, out_chans, stride)
        self.activation2 = activation_named(activation)

    def forward(self, maps: Tensor) -> Tensor:
        """(n, in, h, w) -> (n, out, h / stride, w / stride)."""
        branch = self.activation1(self.norm1(self.conv1(maps)))
        branch = self.norm2(self.conv2(branch))
        return self.activation2(branch + self.shortcut(maps))


def residual_network(
    n: int,
    num_classes: int,
    in_chans: int,
    img_size: ImageSize,
    *,
    activation: Activation,
    shortcut: Shortcut,
    init: Init,
) -> BlockNetwork:
    """A stem, 3 n residual blocks of widths 16, 32, 64, the mean over the map, the head."""
    height_and_width("a residual network", img_size, at_least=4)
    stem = layers(
        conv=nn.Conv2d(in_chans, 16, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(16),
        activation=activation_named(activation),
    )
    blocks: list[nn.Module] = [stem]
    width = 16
    for stage in (16, 32, 64):
        for _ in range(n):
            stride = 1 if stage == width else 2
            blocks.append(ResidualBlock(width, stage, stride, activation, shortcut))
            width = stage
    head = layers(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(64, num_classes))
    return initialised(BlockNetwork(blocks, head, num_classes), init)


@register
def resnet20_cifar(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "relu",
    shortcut: Shortcut = "A",
    init: Init = "default",
) -> BlockNetwork:
    """ResNet-20 (n = 3): 0.27 M weights.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: side, or (height, width), at least 4 pixels.
        activation: name, see `parts.ACTIVATIONS`.
        shortcut: if the shape changes, `A` pads with zeros (the paper's CIFAR networks), `B` projects (1x1).
        init: `default`, `xavier` or `kaiming` (the paper's), see `parts.INITS`.
    """
    return residual_network(3, **locals())


@register
def resnet32_cifar(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "relu",
    shortcut: Shortcut = "A",
    init: Init = "default",
) -> BlockNetwork:
    """ResNet-32 (n = 5): 0.46 M weights. Arguments as for `resnet20_cifar`."""
    return residual_network(5, **locals())


@register
def resnet56_cifar(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    activation: Activation = "relu",
    shortcut: Shortcut = "A",
    init: Init = "default",
) -> BlockNetwork:
    """ResNet-56 (n = 9): 0.85 M weights. Arguments as for `resnet20_cifar`."""
    return residual_network(9, **locals())
