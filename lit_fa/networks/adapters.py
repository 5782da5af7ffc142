"""Adapters of peft in any network: inserted by a config, trained by any rule, merged for export.

peft changes modules in place, and its wrapper of the whole network is not used, so all names stay the same. A rule sees
a network in which some layers are the sum of a frozen layer and a small one.
"""

import inspect
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lit_fa.errors import UserError, nearest, one_line
from lit_fa.networks.weights import head_name

if TYPE_CHECKING:  # importing peft takes seconds
    import peft

STATISTICS = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # AdaLoRA's statistics of its ranks


class Adapters:
    """The state of peft while the adapters of a network are trained. All tensors belong to the network.

    Args:
        network: with its pretrained weights. It is changed in place: only the adapters and the head are trained.
        config: a config of peft as in adapter_config.json: `peft_type` and the options of that type.

    Raises:
        UserError: an unknown type or option, unknown modules, or an error of peft.
    """

    def __init__(self, network: nn.Module, config: Mapping[str, object]):
        """Insert the adapters."""
        head = network.get_submodule(head_name(dict(network.named_parameters())))
        trained = [p for p in head.parameters() if p.requires_grad]
        self.tuner: Any = _injected(network, _checked(dict(config)))
        inside = {m for layer in (*adapted_layers(network).values(), *_originals(network)) for m in layer.modules()}
        for p in trained if head not in inside else ():  # a head with its own adapter stays frozen
            p.requires_grad_(True)

    def after_step(self, step: int) -> None:
        """Let AdaLoRA move ranks between layers; the gradients of optimiser step `step` must still be there."""
        if hasattr(self.tuner, "update_and_allocate"):
            self.tuner.update_and_allocate(step)

    def state(self) -> dict[str, Any]:
        """The part of the state that a checkpoint needs in addition to the network's tensors."""
        allocator = getattr(self.tuner, "rankallocator", None)
        if allocator is None:
            return {}
        statistics = {name: getattr(allocator, name) for name in STATISTICS}
        return statistics | {"rank_pattern": self.tuner.peft_config[self.tuner.trainable_adapter_name].rank_pattern}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore `state`."""
        if not state:
            return
        for name in STATISTICS:
            setattr(self.tuner.rankallocator, name, dict(state[name]))
        self.tuner.peft_config[self.tuner.trainable_adapter_name].rank_pattern = state["rank_pattern"]


@torch.no_grad()
def merge_adapters(network: nn.Module) -> nn.Module:
    """Merge every adapter into the weight of its layer, in place.

    Args:
        network: with adapters of peft, or without.

    Returns:
        The network, which then has only its own layers.

    Raises:
        UserError: a type of adapter that cannot be merged.

    >>> network = nn.Linear(4, 2)
    >>> merge_adapters(network) is network  # nothing to merge
    True
    """
    for name, layer in adapted_layers(network).items():
        merge, base = getattr(layer, "merge", None), getattr(layer, "get_base_layer", None)
        if merge is None or base is None:
            raise UserError(f"{name}: {type(layer).__name__} cannot be merged: export before adapting")
        merge()
        _replace(network, layer, base())
    for wrapper in _copied(network):
        _replace(network, wrapper, wrapper.modules_to_save[wrapper.active_adapter])
    return network


def adapted_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Name to layer, for the layers that have an adapter."""
    if "peft" not in sys.modules:
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = [name for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)]
    return {name: network.get_submodule(name) for name in names}


def _copied(network: nn.Module) -> list[Any]:
    """Peft's wrappers of `modules_to_save`: the unused, frozen module and its trained copy."""
    if "peft" not in sys.modules:
        return []
    from peft.utils.other import ModulesToSaveWrapper

    return [m for m in network.modules() if isinstance(m, ModulesToSaveWrapper)]


def _originals(network: nn.Module) -> list[nn.Module]:
    return [wrapper.original_module for wrapper in _copied(network)]


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in [*network.modules()]:
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _checked(config: dict[str, Any]) -> "peft.PeftConfig":
    import peft

    known: dict[str, type[peft.PeftConfig]] = {k.value: c for k, c in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    kind = str(config.get("peft_type", "")).upper()
    if kind not in known:
        raise UserError(f"adapter: peft_type is '{kind}'; {nearest(kind, [*known])}")
    options = {name: v for name, v in config.items() if name != "peft_type"}
    valid = [*inspect.signature(known[kind]).parameters]
    for name in options:
        if name not in valid:
            raise UserError(f"adapter: {kind} has no option '{name}'; {nearest(name, valid)}")
    try:
        return known[kind](**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"adapter: {one_line(error)}") from error


def _injected(network: nn.Module, config: "peft.PeftConfig") -> nn.Module:
    import peft

    kind = getattr(config.peft_type, "value", config.peft_type)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns that our networks have no config as those of transformers do
            tuner = peft.get_peft_model(network, config).base_model
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        raise UserError(f"adapter: {kind} does not fit this network: {one_line(error)}") from error
    if not adapted_layers(network):
        raise UserError(f"adapter: {kind} changes no layer of this network: set LORA, ADALORA, ...")
    return tuner
