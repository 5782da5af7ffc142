"""The MLP of the released code of dendritic localized learning (Lv et al. 2025), which no other network is."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lit_fa.networks.mlp import hidden_widths
from lit_fa.networks.parts import (
    Activation,
    BlockNetwork,
    ImageSize,
    Init,
    activation_named,
    height_and_width,
    initialised,
    layers,
)
from lit_fa.networks.registry import register


class PassedSoftmax(nn.Module):
    """Softmax over the last dimension, whose backward pass is the identity."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) to (n, d)."""
        return x + (x.softmax(-1) - x).detach()


@register
def activation_first_mlp(
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    img_size: ImageSize = 32,
    hidden: Sequence[int] | int | None = None,
    activation: Activation = "tanh",
    bias: bool = False,
    init: Init = "kaiming",
) -> BlockNetwork:
    """The MLP of DLL's released code: each layer is f(u) W, so that pixels pass tanh and the outputs are linear.

    The last layer reads a softmax over the last hidden units, with derivative 1 in the backward pass. The code trains
    it by the squared error, `criterion: mse`.

    Args:
        num_classes: number of outputs.
        in_chans: channels of the images.
        img_size: side, or (height, width), in pixels.
        hidden: widths of the hidden layers.
        activation: of all layers except the last, see `parts.ACTIVATIONS`.
        bias: of all layers.
        init: `default`, `xavier` or `kaiming`; the code draws from N(0, 0.05^2), close to `kaiming` at these widths.
    """
    height, image_width = height_and_width("activation_first_mlp", img_size)
    widths = [in_chans * height * image_width, *hidden_widths(hidden, None, None)]
    blocks = [
        layers(flatten=nn.Flatten(), activation=activation_named(activation), linear=nn.Linear(i, o, bias=bias))
        for i, o in pairwise(widths)
    ]
    head = layers(activation=PassedSoftmax(), linear=nn.Linear(widths[-1], num_classes, bias=bias))
    return initialised(BlockNetwork(blocks, head, num_classes), init)
