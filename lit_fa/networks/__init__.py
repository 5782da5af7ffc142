"""Networks by name: importing this package registers the papers' small networks with timm."""

from lit_fa.networks import (  # noqa: F401  (importing registers)
    mlp,
    resnet_cifar,
    resnet_wide,
    shufflenet,
    small_conv,
    vgg_cifar,
)
from lit_fa.networks.adapters import Adapters, merge_adapters
from lit_fa.networks.create import configured, create_network, example_input
from lit_fa.networks.registry import network_names
from lit_fa.networks.weights import load_weights

__all__ = [
    "Adapters",
    "configured",
    "create_network",
    "example_input",
    "load_weights",
    "merge_adapters",
    "network_names",
]
