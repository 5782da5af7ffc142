"""Adapters of peft in any network: put in by a config, trained by any rule, merged when they have done their work.

The network keeps its names: peft changes modules in place, and what it wraps around the network is kept out of the way.
So a rule sees a network some of whose layers are sums of a frozen one and a small one.
"""

import inspect
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from lit_fa.errors import UserError, nearest
from lit_fa.networks.weights import read_out_name

if TYPE_CHECKING:  # importing peft takes seconds, so only who adapts pays them
    import peft
    from peft.tuners.tuners_utils import BaseTuner

STATISTICS = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what AdaLoRA knows of its ranks


class Adapters:
    """What peft needs to know while the adapters of a network train. Holds no tensor that the network does not hold.

    Args:
        network: with its pretrained weights; changed in place: everything freezes but the adapters and the read-out.
        config: a config of peft as it is saved in adapter_config.json: `peft_type` and that type's options.

    Raises:
        UserError: an unknown type or option, modules that are not there, or what peft itself refuses.
    """

    def __init__(self, network: nn.Module, config: Mapping[str, object]):
        """Put them in."""
        head = network.get_submodule(read_out_name(dict(network.named_parameters())))
        trained = [p for p in head.parameters() if p.requires_grad]
        self.tuner = _injected(network, _checked(dict(config)))
        inside = {m for layer in (*adapted_layers(network).values(), *_replaced(network)) for m in layer.modules()}
        for p in trained if head not in inside else ():  # a read-out with an adapter of its own stays frozen
            p.requires_grad_(True)

    def after_step(self, step: int) -> None:
        """AdaLoRA moves ranks from layer to layer; with the gradients of optimiser step `step` still at hand."""
        if hasattr(self.tuner, "update_and_allocate"):
            self.tuner.update_and_allocate(step)

    def state(self) -> dict:
        """What a checkpoint must hold beside the network's tensors."""
        allocator = getattr(self.tuner, "rankallocator", None)
        if allocator is None:
            return {}
        found = {name: getattr(allocator, name) for name in STATISTICS}
        return found | {"rank_pattern": self.tuner.peft_config[self.tuner.trainable_adapter_name].rank_pattern}

    def take_up(self, state: Mapping) -> None:
        """Go on from `state`."""
        if not state:
            return
        for name in STATISTICS:
            setattr(self.tuner.rankallocator, name, dict(state[name]))
        self.tuner.peft_config[self.tuner.trainable_adapter_name].rank_pattern = state["rank_pattern"]


@torch.no_grad()
def merge_adapters(network: nn.Module) -> nn.Module:
    """Put every adapter into the weight that it was added to, in place; returns the network.

    Raises:
        UserError: a kind of adapter that cannot be merged.
    """
    for name, layer in adapted_layers(network).items():
        if not hasattr(layer, "merge"):
            raise UserError(f"{name}: {type(layer).__name__} cannot be merged: export before adapting")
        layer.merge()
        _put(network, layer, layer.get_base_layer())
    for wrapper in _copied(network):
        _put(network, wrapper, wrapper.modules_to_save[wrapper.active_adapter])
    return network


def adapted_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Name to layer with an adapter."""
    if "peft" not in sys.modules:
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: m for name, m in network.named_modules() if isinstance(m, BaseTunerLayer)}


def _copied(network: nn.Module) -> list[nn.Module]:
    """Peft's wrappers around `modules_to_save`: a module that stays frozen and unused, and the copy that trains."""
    if "peft" not in sys.modules:
        return []
    from peft.utils.other import ModulesToSaveWrapper

    return [m for m in network.modules() if isinstance(m, ModulesToSaveWrapper)]


def _replaced(network: nn.Module) -> list[nn.Module]:
    return [wrapper.original_module for wrapper in _copied(network)]


def _put(network: nn.Module, layer: nn.Module, made: nn.Module) -> None:
    """Wherever the network holds `layer`."""
    for parent in [*network.modules()]:
        for name, child in parent._modules.items():
            if child is layer:
                parent._modules[name] = made


def _checked(config: dict) -> "peft.PeftConfig":
    import peft

    known = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    kind = str(config.get("peft_type", "")).upper()
    if kind not in known:
        raise UserError(f"adapter: peft_type is '{kind}'; {nearest(kind, [str(k.value) for k in known])}")
    options = {name: v for name, v in config.items() if name != "peft_type"}
    valid = [*inspect.signature(known[kind]).parameters]
    for name in options:
        if name not in valid:
            raise UserError(f"adapter: {kind} has no option '{name}'; {nearest(name, valid)}")
    try:
        return known[kind](**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"adapter: {_one_line(error)}") from error


def _injected(network: nn.Module, config: "peft.PeftConfig") -> "BaseTuner":
    import peft

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of configs that transformers' models have and ours need not
            tuner = peft.get_peft_model(network, config).base_model
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        raise UserError(f"adapter: {config.peft_type.value} does not fit this network: {_one_line(error)}") from error
    if not adapted_layers(network):
        raise UserError(f"adapter: {config.peft_type.value} changes no layer of this network; take LORA, ADALORA, ...")
    return tuner


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    return said if said not in ("", "None") else type(error).__name__
