"""Networks by name. Importing this package registers the papers' networks with timm."""

from lit_fa.networks import (  # noqa: F401  (importing registers them)
    conv_linear,
    dll,
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
