r"""Simplifies a network for prediction: the cheaper form of every factored layer, folded batch norm, no rule.

A factored layer of rank r needs $r(a + b)$ products per position, a dense layer $ab$. So below about half of the full
rank the layer is replaced by two small layers, each with $\sqrt{s}$; above it the factors are merged. Batch
normalisation after a linear or conv layer is a scale and a shift of its output and is folded into the layer.
"""

import copy
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm, skip_init
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lit_fa.deployment.cost import macs, ratio, turns
from lit_fa.errors import UserError
from lit_fa.functional.svd_factors import Geometry, kernels
from lit_fa.layers.factored import FactoredConv2d, FactoredLayer, FactoredLinear, factored_layers, replace
from lit_fa.layers.feedback import feedback_layers, retract
from lit_fa.layers.hooks import is_ours
from lit_fa.layers.observing import calls, observing
from lit_fa.networks import merge_adapters

FOLDED: dict[type[nn.Module], Callable[..., nn.Module]] = {nn.Conv2d: fuse_conv_bn_eval, nn.Linear: fuse_linear_bn_eval}
By = Literal["macs", "time"]
TOLERANCE = 1e-3  # relative to the largest logit: folding changes only the order of rounding


class Pad(nn.Module):
    """The padding that a convolution does not apply itself."""

    def __init__(self, sides: list[int], mode: str):
        """`sides` and `mode` as for `torch.nn.functional.pad`."""
        super().__init__()
        self.sides, self.mode = sides, mode

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w), padded."""
        return F.pad(x, self.sides, self.mode)


@torch.no_grad()
def simplified(network: nn.Module, example: Tensor, by: By = "macs") -> nn.Module:
    """A copy of `network` for prediction only, in evaluation mode, with the same outputs.

    The random state is not changed. Hooks of other code are kept. A weight that is computed from other tensors (weight
    or spectral normalisation) is fixed at its current value.

    Args:
        network: trained under any rule that predicts by a forward pass.
        example: (n, ...) inputs, whose size determines which form of a layer is cheaper.
        by: `macs`: the form with fewer multiply-adds; `time`: the form that is faster on this machine for this batch,
            and the merged form if they are equally fast.

    Raises:
        UserError: the outputs of the copy differ, or the network's outputs are random.
    """
    cheaper = CHEAPER[by]
    expected = outputs(network, example)
    plain = without_rule(network).eval()
    inputs = {call.name: call.inputs[0] for call in calls(plain, example, factored_layers(plain))}
    for name, layer in factored_layers(plain).items():
        if name in inputs:
            replace(plain, layer, cheaper(*forms(layer), inputs[name]))
    folded = fold_batch_norm(copy.deepcopy(plain), example)
    for candidate in (folded, plain):  # a layer whose output is also read elsewhere must keep its normalisation
        if same(candidate(example), expected):
            return candidate
    raise UserError(
        "the outputs of the simplified network differ from those of the trained one: a factor is not finite, or a "
        "module of your own depends on a rule, an adapter or a factor"
    )


@torch.no_grad()
def outputs(network: nn.Module, example: Tensor) -> Tensor:
    """The outputs of the network in evaluation mode; its state is not changed.

    Raises:
        UserError: a second forward pass gives other outputs.
    """
    with observing(network):
        network.eval()
        first, second = network(example), network(example)
    if not same(first, second) and first.isfinite().all():
        raise UserError("the network draws random numbers in evaluation mode (dropout that is always on?): no export")
    return first


def same(actual: Tensor, expected: Tensor) -> bool:
    """Whether outputs are equal up to rounding; false if a value is not finite."""
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= TOLERANCE * expected.abs().max())


def without_rule(network: nn.Module) -> nn.Module:
    """A copy without the additions of rules and adapters, and without gradients; hooks of other code are kept."""
    plain = merge_adapters(copy.deepcopy(network))
    for module in plain.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if is_ours(hook)]:
                del hooks[key]
    for layer in feedback_layers(plain, off=True).values():
        retract(layer)
    for factored in factored_layers(plain).values():
        factored.transport, factored.feedback = "weights", None
    for module in [*plain.modules()]:
        _fix_weights(module)
    return plain.requires_grad_(False)


def _fix_weights(module: nn.Module) -> None:
    """Replace a weight that torch's parametrisation or hook computes at every pass by a parameter."""
    if parametrize.is_parametrized(module):
        # torch's own removal deletes the properties of the class, which the original network uses too
        names = [name for name, _ in module.get_submodule("parametrizations").named_children()]
        tensors = {name: getattr(module, name).detach().clone() for name in names}
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, tensor in tensors.items():
            module.register_parameter(name, nn.Parameter(tensor))
    for hook in [*module._forward_pre_hooks.values()]:
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)


def forms(layer: FactoredLayer) -> tuple[nn.Module, nn.Module]:
    """The merged form and the factored form of a layer."""
    return dense_form(layer), factored_form(layer)


def dense_form(layer: FactoredLayer) -> nn.Module:
    """One layer with the merged weight."""
    if isinstance(layer, FactoredLinear):
        dense = skip_init(nn.Linear, layer.shape[1], layer.shape[0], bias=layer.bias is not None)
    else:
        dense = skip_init(nn.Conv2d, layer.shape[1], layer.shape[0], *_geometry(layer), bias=layer.bias is not None)
    return _padded(layer, _filled(dense, layer.merged(), layer.bias))


def factored_form(layer: FactoredLayer) -> nn.Module:
    """Two consecutive layers, each with the square roots of s."""
    mask, root = layer.mask, layer.s[layer.mask].sqrt()
    scaled = layer.factors._replace(U=layer.U[:, mask] * root, s=torch.ones_like(root), V=layer.V[:, mask] * root)
    rank, bias = len(root), layer.bias is not None
    if isinstance(layer, FactoredLinear):
        first = skip_init(nn.Linear, layer.shape[1], rank, bias=False)
        second = skip_init(nn.Linear, rank, layer.shape[0], bias=bias)
        weights = scaled.V.t(), scaled.U
    else:
        (kh, kw), (sh, sw), (ph, pw), (dh, dw) = _geometry(layer)
        first = skip_init(nn.Conv2d, layer.shape[1], rank, (kh, 1), (sh, 1), (ph, 0), (dh, 1), bias=False)
        second = skip_init(nn.Conv2d, rank, layer.shape[0], (1, kw), (1, sw), (0, pw), (1, dw), bias=bias)
        weights = kernels(scaled, (kh, kw))
    return _padded(layer, _filled(first, weights[0]), _filled(second, weights[1], layer.bias))


def _geometry(layer: FactoredLayer) -> Geometry:
    assert isinstance(layer, FactoredConv2d)
    return layer.geometry


def fewer_macs(dense: nn.Module, factored: nn.Module, x: Tensor) -> nn.Module:
    """The module with fewer multiply-adds."""
    return min(dense, factored, key=lambda module: macs(module, x))


def faster(dense: nn.Module, factored: nn.Module, x: Tensor) -> nn.Module:
    """The factored module if it is faster by more than 5 %, in the median of 31 rounds; otherwise the dense one."""
    base, seconds = turns((dense, factored), x, rounds=31)
    return factored if ratio(seconds, base) < 0.95 else dense


CHEAPER: dict[By, Callable[[nn.Module, nn.Module, Tensor], nn.Module]] = {"macs": fewer_macs, "time": faster}


def fold_batch_norm(network: nn.Module, example: Tensor) -> nn.Module:
    """Fold every batch normalisation into the layer whose output it reads, in place."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    names = [name for name, module in network.eval().named_modules() if type(module) in (*FOLDED, *norms)]
    recorded = calls(network, example, names)
    layer_of = {id(call.output): call.name for call in recorded if type(network.get_submodule(call.name)) in FOLDED}
    pairs = [(layer_of[id(call.inputs[0])], call.name) for call in recorded if id(call.inputs[0]) in layer_of]
    pairs = [(layer, norm) for layer, norm in pairs if type(network.get_submodule(norm)) in norms]
    ran = [call.name for call in recorded]
    for layer, norm in pairs:
        if any(ran.count(name) > 1 or _has_hooks(network.get_submodule(name)) for name in (layer, norm)):
            continue
        if network.get_submodule(norm).running_mean is None:  # it normalises by the statistics of the batch
            continue
        linear, normalisation = network.get_submodule(layer), network.get_submodule(norm)
        replace(network, linear, FOLDED[type(linear)](linear, normalisation))
        replace(network, normalisation, nn.Identity())
    return network.requires_grad_(False)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _filled(module: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    module = module.to(weight).requires_grad_(False)
    module.get_parameter("weight").copy_(weight)
    if bias is not None:
        module.get_parameter("bias").copy_(bias)
    return module


def _padded(layer: FactoredLayer, *modules: nn.Module) -> nn.Module:
    first = [Pad(layer.sides, layer.mode)] if isinstance(layer, FactoredConv2d) and any(layer.sides) else []
    return nn.Sequential(*first, *modules) if first or len(modules) > 1 else modules[0]
