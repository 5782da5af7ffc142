"""A network read as a chain of dense layers, which the explicit executor writes out on stacked parameters.

Legend: a lanes, b rows, i in, o out, c classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_fa.layers.observing import observing
from lit_fa.rules.base import Tensors

Gate = Callable[[Tensor, Tensor], Tensor]  # (delta, activation) to delta, in place

# what an activation does to its input in place, and what it does to a delta, read off its output
ACTIVATIONS: dict[type, tuple[Callable[[Tensor], Tensor], Gate]] = {
    nn.ReLU: (F.relu_, lambda delta, h: delta.mul_(h > 0)),
    nn.Tanh: (torch.tanh_, lambda delta, h: delta.mul_(1 - h.square())),
    nn.Sigmoid: (torch.sigmoid_, lambda delta, h: delta.mul_(h * (1 - h))),
    nn.Identity: (lambda z: z, lambda delta, h: delta),
}


@dataclass(frozen=True)
class Dense:
    """One layer: names of its tensors in the learner, and its activation."""

    name: str
    bias: bool
    activation: type = nn.Identity

    @property
    def weight_name(self) -> str:
        """In the learner."""
        return f"network.{self.name}.weight"

    @property
    def bias_name(self) -> str:
        """In the learner."""
        return f"network.{self.name}.bias"

    def project(self, x: Tensor, params: Tensors) -> Tensor:
        """(a, b, i) to (a, b, o), bias included."""
        weight = params[self.weight_name].mT
        return torch.baddbmm(params[self.bias_name].unsqueeze(1), x, weight) if self.bias else torch.bmm(x, weight)

    def forward(self, x: Tensor, params: Tensors) -> Tensor:
        """(a, b, i) to the activation (a, b, o)."""
        return self.activate(self.project(x, params))

    def activate(self, z: Tensor) -> Tensor:
        """The layer's sum in place to its activation."""
        return ACTIVATIONS[self.activation][0](z)

    def gate(self, delta: Tensor, h: Tensor) -> Tensor:
        """The delta at the activation, in place to that at the layer's sum."""
        return ACTIVATIONS[self.activation][1](delta, h)


def read_chain(network: nn.Module, example: Tensor) -> list[Dense] | str:
    """The layers of a network that is a chain of linear layers and activations, or a sentence why it is none.

    The modules are taken in the order of their registration, and one forward pass shows whether that is the network.
    """
    chain: list[Dense] = []
    for name, module in network.named_modules():
        if chain and name.startswith(chain[-1].name + "."):
            continue  # what hangs on a layer (its feedback) is no part of the way
        if isinstance(module, nn.Linear):
            chain.append(Dense(name, module.bias is not None))
        elif type(module) in ACTIVATIONS and chain and not isinstance(module, nn.Identity):
            if chain[-1].activation is not nn.Identity:
                return f"two activations follow on one another before {name}"
            chain[-1] = Dense(chain[-1].name, chain[-1].bias, type(module))
        elif not _passes_on(module):
            return f"{name} ({type(module).__name__}) is no part of a chain of dense layers"
    return chain if chain and _same(network, chain, example) else "the network is not the chain of its dense layers"


def _passes_on(module: nn.Module) -> bool:
    """Containers, flattening, and dropout that drops nothing."""
    silent = isinstance(module, nn.modules.dropout._DropoutNd) and module.p == 0
    return silent or isinstance(module, nn.Flatten | nn.Identity) or any(module.children())


@torch.no_grad()
def _same(network: nn.Module, chain: list[Dense], example: Tensor) -> bool:
    x = torch.linspace(-1, 1, example.numel(), dtype=example.dtype, device=example.device).view_as(example)
    params = {f"network.{name}": p.unsqueeze(0) for name, p in network.named_parameters()}
    h = x.flatten(1).unsqueeze(0)
    try:
        for layer in chain:
            h = layer.forward(h, params)
        with observing(network):
            return torch.allclose(network(x), h[0], rtol=1e-4, atol=1e-5)
    except RuntimeError:
        return False
