"""The multilayer perceptron: the network of most papers on learning without backpropagation."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.networks.parts import Activation, BlockNetwork, ImageSize, Init, height_and_width, initialised, linear_block
from lit_fa.networks.registry import register

DEEPEST = 10_000  # hidden layers


def hidden_widths(hidden: Sequence[int] | int | None, width: int | None, depth: int | None) -> list[int]:
    """Widths of the hidden layers, given either as a list or as `depth` layers of `width` units.

    >>> hidden_widths([300, 100], None, None), hidden_widths(None, 64, 3), hidden_widths(None, None, None)
    ([300, 100], [64, 64, 64], [500])
    """
    if hidden is not None and (width is not None or depth is not None):
        raise UserError("mlp: give either hidden or width and depth, not both")
    if hidden is None:
        hidden = [500 if width is None else width] * min(1 if depth is None else depth, DEEPEST + 1)
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    if len(widths) > DEEPEST:
        raise UserError(f"mlp has {len(widths):,} hidden layers: write at most {DEEPEST:,}")
    if not widths or min(widths) < 1:
        raise UserError(f"mlp needs at least one hidden layer of at least one unit, not {widths}")
    return widths


@register
def mlp(
    *,
    num_classes: int = 10,
    in_chans: int = 1,
    img_size: ImageSize = 28,
    hidden: Sequence[int] | int | None = None,
    width: int | None = None,
    depth: int | None = None,
    activation: Activation = "relu",
    bias: bool = True,
    head_bias: bool | None = None,
    dropout: float = 0.0,
    init: Init = "default",
    gain: float = 1.0,
) -> BlockNetwork:
    """Hidden layers of the given widths and a linear head; images are flattened.

    Args:
        num_classes: number of logits.
        in_chans: channels of the images.
        img_size: side, or (height, width), in pixels.
        hidden: widths of the hidden layers; [500] if neither this nor width nor depth is given.
        width: units of every hidden layer, with `depth`, instead of `hidden`.
        depth: number of hidden layers.
        activation: name, see `parts.ACTIVATIONS`.
        bias: of all layers, including the head; false for laws that assume no bias.
        head_bias: of the head; None: as `bias`.
        dropout: probability after every hidden activation.
        init: `default`, `xavier`, `kaiming` or `kaiming_uniform`, see `parts.INITS`.
        gain: factor on the initial weights of the hidden layers; the head keeps its own.

    Raises:
        UserError: for an unknown name, or hidden together with width or depth.
    """
    if not 0 <= dropout < 1:
        raise UserError(f"mlp: dropout is a probability in [0, 1), not {dropout}")
    if not 0 < gain < float("inf"):
        raise UserError(f"mlp: gain is a positive number, not {gain}")
    height, image_width = height_and_width("mlp", img_size)
    widths = [in_chans * height * image_width, *hidden_widths(hidden, width, depth)]
    blocks = [linear_block(fan_in, fan_out, bias=bias, activation=activation) for fan_in, fan_out in pairwise(widths)]
    if dropout:
        for block in blocks:
            block.add_module("dropout", nn.Dropout(dropout))
    head = nn.Linear(widths[-1], num_classes, bias=bias if head_bias is None else head_bias)
    network = initialised(BlockNetwork(blocks, head, num_classes), init)
    with torch.no_grad():
        for block in blocks:
            block.get_parameter("linear.weight").mul_(gain)
    return network
