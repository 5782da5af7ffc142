"""The parts of our networks: a sequence of blocks, named layers, activations and initialisations by name.

A rule places stop-gradients at block boundaries and hooks layers. Therefore a network is `blocks.0 ... blocks.L-1,
head`, every operation (activation, pool, flatten, a whole residual branch) is a module, and no module is used twice.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, nearest

Activation = Literal[
    "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh", "hard_tanh", "sigmoid", "hard_sigmoid", "identity"
]
Init = Literal["default", "xavier", "kaiming", "kaiming_uniform"]
ImageSize = int | tuple[int, int] | list[int]
Network = TypeVar("Network", bound=nn.Module)
Name = TypeVar("Name", bound=str)
T = TypeVar("T")

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "hard_tanh": nn.Hardtanh,
    "sigmoid": nn.Sigmoid,
    "hard_sigmoid": nn.Hardsigmoid,
    "identity": nn.Identity,
}


def _keep_default(weight: Tensor) -> Tensor:
    return weight


def _he_uniform(weight: Tensor) -> Tensor:
    return nn.init.kaiming_uniform_(weight, nonlinearity="relu")


INITS: dict[Init, Callable[[Tensor], Tensor]] = {
    "default": _keep_default,  # torch: uniform within +-1/sqrt(fan_in)
    "xavier": nn.init.xavier_uniform_,  # Glorot & Bengio 2010, uniform; BioTorch's tables
    "kaiming": nn.init.kaiming_normal_,  # He et al. 2015, normal, fan_in, gain sqrt(2)
    "kaiming_uniform": _he_uniform,  # uniform within +-sqrt(6/fan_in)
}


class BlockNetwork(nn.Module):
    """`head(blocks(images))`, the form of every network of this package.

    Args:
        blocks: applied in this order; a rule may place a stop-gradient after each `blocks.i`.
        head: ends with the linear layer of the logits; if the last block has maps, it first pools and flattens them.
        num_classes: number of logits.
    """

    def __init__(self, blocks: Iterable[nn.Module], head: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.head = head
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) -> logits (n, classes)."""
        return self.head(self.blocks(images))


def layers(**modules: nn.Module | None) -> nn.Sequential:
    """A sequence of layers named by the keywords; `None` is omitted.

    >>> [name for name, _ in layers(linear=nn.Linear(2, 2), activation=nn.ReLU(), pool=None).named_children()]
    ['linear', 'activation']
    """
    sequence = nn.Sequential()
    for name, module in modules.items():
        if module is not None:
            sequence.add_module(name, module)
    return sequence


def choice(what: str, name: Name, valid: Mapping[Name, T]) -> T:
    """`valid[name]`.

    Raises:
        UserError: an unknown name, with the nearest valid ones.
    """
    if name not in valid:
        raise UserError(f"{what} {name!r} is unknown; {nearest(name, list(valid))}")
    return valid[name]


def activation_named(name: Activation) -> nn.Module:
    """A new activation module, e.g. `relu`, `leaky_relu` (slope 0.01), `tanh`, `identity`; see `ACTIVATIONS`."""
    return choice("activation", name, ACTIVATIONS)()


@torch.no_grad()
def initialised(network: Network, init: Init) -> Network:
    """Initialise the weights of linear and convolution layers by `init` (see `INITS`); return the network.

    Biases keep torch's init, uniform within +-1/sqrt(fan_in); normalisation layers keep scale one and shift zero.
    """
    draw = choice("init", init, INITS)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            draw(module.weight)
    return network


def height_and_width(network: str, img_size: ImageSize, at_least: int = 1) -> tuple[int, int]:
    """Image size as (height, width).

    Raises:
        UserError: a side is shorter than `at_least` pixels, so that the network would have empty maps.
    """
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if min(height, width) < at_least:
        raise UserError(f"{network} needs images of at least {at_least} x {at_least} pixels, not {height} x {width}")
    return height, width


def conv_block(
    in_chans: int,
    out_chans: int,
    *,
    kernel: int = 3,
    padding: int = 1,
    stride: int = 1,
    bias: bool = True,
    batch_norm: bool = False,
    activation: Activation = "relu",
    pool: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution, optional batch normalisation, activation, optional pool.

    With batch normalisation there is no bias, because the normalisation would subtract it.
    """
    return layers(
        conv=nn.Conv2d(in_chans, out_chans, kernel, stride, padding, bias=bias and not batch_norm),
        norm=nn.BatchNorm2d(out_chans) if batch_norm else None,
        activation=activation_named(activation),
        pool=pool,
    )


def linear_block(
    in_features: int, out_features: int, *, bias: bool = True, batch_norm: bool = False, activation: Activation = "relu"
) -> nn.Sequential:
    """Flatten, linear layer, optional batch normalisation, activation."""
    return layers(
        flatten=nn.Flatten(),
        linear=nn.Linear(in_features, out_features, bias=bias and not batch_norm),
        norm=nn.BatchNorm1d(out_features) if batch_norm else None,
        activation=activation_named(activation),
    )
