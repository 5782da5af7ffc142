r"""The network as it is run: every factored layer in its cheaper form, batch normalisation folded, rules gone.

A factored layer of rank r costs $r(a + b)$ products a position where the dense one costs $ab$, so below a rank of about
half the full one two small layers stay, with $\sqrt{s}$ on either side; above it they are merged. Batch normalisation
that follows a linear or conv layer is a scale and a shift of its output, and goes into it.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm, skip_init
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lit_fa.deployment.cost import macs, ratio, turns
from lit_fa.errors import UserError
from lit_fa.functional.factored import kernels
from lit_fa.layers.factored import FactoredLayer, FactoredLinear, factored_layers, replace
from lit_fa.layers.feedback import feedback_layers, retract
from lit_fa.layers.labels import LabelledInput
from lit_fa.layers.observing import calls, observing
from lit_fa.layers.taps import Taps
from lit_fa.networks import merge_adapters

FOLDED = {nn.Conv2d: fuse_conv_bn_eval, nn.Linear: fuse_linear_bn_eval}
TOLERANCE = 1e-3  # of the largest logit: folding rounds in another order, and no more


class Pad(nn.Module):
    """The padding that a convolution does not make itself."""

    def __init__(self, sides: list[int], mode: str):
        """`sides` and `mode` as for `torch.nn.functional.pad`."""
        super().__init__()
        self.sides, self.mode = sides, mode

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) with its border."""
        return F.pad(x, self.sides, self.mode)


@torch.no_grad()
def simplified(network: nn.Module, example: Tensor, by: str = "macs") -> nn.Module:
    """A copy of `network` for prediction alone, in evaluation mode; its outputs are those of the original.

    Draws no random number. Hooks of others stay; a weight that is made of others (weight or spectral normalisation) is
    fixed at what it is.

    Args:
        network: trained under any rule that predicts by a forward pass.
        example: (n, ...) inputs, whose size decides which form of a layer is cheaper.
        by: `macs`: the form with fewer multiply-adds; `time`: the one that is faster here, for this batch; merged where
            they are as fast.

    Raises:
        UserError: the copy computes something else, or the network itself never computes the same.
    """
    cheaper = CHEAPER[by]
    expected = outputs(network, example)
    made = without_rule(network).eval()
    inputs = {call.name: call.inputs[0] for call in calls(made, example, factored_layers(made))}
    for name, layer in factored_layers(made).items():
        if name in inputs:
            replace(made, layer, cheaper(*forms(layer), inputs[name]))
    folded = fold_batch_norm(copy.deepcopy(made), example)
    for candidate in (folded, made):  # a layer whose output is read elsewhere too must keep its normalisation
        if same(candidate(example), expected):
            return candidate
    raise UserError(
        "the simplified network computes something else than the trained one: are its factors not finite, or does a "
        "module of your own depend on what a rule, an adapter or a factor was?"
    )


@torch.no_grad()
def outputs(network: nn.Module, example: Tensor) -> Tensor:
    """What the network itself predicts, in evaluation mode; nothing of it changes.

    Raises:
        UserError: it predicts something else the second time.
    """
    with observing(network):
        network.eval()
        first, second = network(example), network(example)
    if not same(first, second) and first.isfinite().all():
        raise UserError("the network draws random numbers in evaluation mode (dropout that is always on?): no export")
    return first


def same(found: Tensor, expected: Tensor) -> bool:
    """Whether outputs are equal to rounding."""
    return found.shape == expected.shape and bool(
        (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
    )  # false for what is not finite


def without_rule(network: nn.Module) -> nn.Module:
    """A copy without what rules and adapters put in, and without gradients; what others put in stays."""
    made = merge_adapters(copy.deepcopy(network))
    for module in made.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if _is_a_rules(hook)]:
                del hooks[key]
    for layer in feedback_layers(made, off=True).values():
        retract(layer)
    for layer in factored_layers(made).values():
        layer.transport, layer.feedback = "weights", None
    for module in [*made.modules()]:
        _fix_weights(module)
    return made.requires_grad_(False)


def _is_a_rules(hook: Callable) -> bool:
    """Whether a hook is a method of taps or of a labelled input, as it is or with arguments given."""
    return isinstance(getattr(getattr(hook, "func", hook), "__self__", None), Taps | LabelledInput)


def _fix_weights(module: nn.Module) -> None:
    """Make the weight a tensor of its own where a parametrisation or a hook of torch's makes it at every pass."""
    if parametrize.is_parametrized(module):
        # torch's own removal takes the tensors off the class, which the original network shares
        made = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, tensor in made.items():
            module.register_parameter(name, nn.Parameter(tensor))
    for hook in [*module._forward_pre_hooks.values()]:
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)


def forms(layer: FactoredLayer) -> tuple[nn.Module, nn.Module]:
    """The layer merged, and in two."""
    return dense_form(layer), factored_form(layer)


def dense_form(layer: FactoredLayer) -> nn.Module:
    """One layer with the merged weight."""
    if isinstance(layer, FactoredLinear):
        made = skip_init(nn.Linear, layer.shape[1], layer.shape[0], bias=layer.bias is not None)
    else:
        made = skip_init(nn.Conv2d, layer.shape[1], layer.shape[0], *layer.geometry, bias=layer.bias is not None)
    return _padded(layer, _filled(made, layer.merged(), layer.bias))


def factored_form(layer: FactoredLayer) -> nn.Module:
    """Two layers without anything between them, the square roots of s in both."""
    kept, root = layer.mask, layer.s[layer.mask].sqrt()
    scaled = layer.factors._replace(U=layer.U[:, kept] * root, s=torch.ones_like(root), V=layer.V[:, kept] * root)
    rank, bias = len(root), layer.bias is not None
    if isinstance(layer, FactoredLinear):
        first = skip_init(nn.Linear, layer.shape[1], rank, bias=False)
        second = skip_init(nn.Linear, rank, layer.shape[0], bias=bias)
        weights = scaled.V.t(), scaled.U
    else:
        (kh, kw), (sh, sw), (ph, pw), (dh, dw) = layer.geometry
        first = skip_init(nn.Conv2d, layer.shape[1], rank, (kh, 1), (sh, 1), (ph, 0), (dh, 1), bias=False)
        second = skip_init(nn.Conv2d, rank, layer.shape[0], (1, kw), (1, sw), (0, pw), (1, dw), bias=bias)
        weights = kernels(scaled, (kh, kw))
    return _padded(layer, _filled(first, weights[0]), _filled(second, weights[1], layer.bias))


def fewer_macs(dense: nn.Module, factored: nn.Module, x: Tensor) -> nn.Module:
    """The module with fewer multiply-adds."""
    return min(dense, factored, key=lambda module: macs(module, x))


def faster(dense: nn.Module, factored: nn.Module, x: Tensor) -> nn.Module:
    """The factored module if it is surely faster: by a twentieth, in the median of 31 rounds."""
    base, taken = turns((dense, factored), x, rounds=31)
    return factored if ratio(taken, base) < 0.95 else dense


CHEAPER: dict[str, Callable[[nn.Module, nn.Module, Tensor], nn.Module]] = {"macs": fewer_macs, "time": faster}


def fold_batch_norm(network: nn.Module, example: Tensor) -> nn.Module:
    """Put every batch normalisation into the layer whose output it reads, in place."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    names = [name for name, module in network.eval().named_modules() if type(module) in (*FOLDED, *norms)]
    seen = calls(network, example, names)
    made = {id(call.output): call.name for call in seen if type(network.get_submodule(call.name)) in FOLDED}
    pairs = [(made[id(call.inputs[0])], call.name) for call in seen if id(call.inputs[0]) in made]
    pairs = [(layer, norm) for layer, norm in pairs if type(network.get_submodule(norm)) in norms]
    ran = [call.name for call in seen]
    for layer, norm in pairs:
        if any(ran.count(name) > 1 or _has_hooks(network.get_submodule(name)) for name in (layer, norm)):
            continue
        if network.get_submodule(norm).running_mean is None:  # it normalises by the batch, which differs
            continue
        linear, normalisation = network.get_submodule(layer), network.get_submodule(norm)
        replace(network, linear, FOLDED[type(linear)](linear, normalisation))
        replace(network, normalisation, nn.Identity())
    return network.requires_grad_(False)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _filled(module: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    module = module.to(weight).requires_grad_(False)
    module.weight.copy_(weight)
    if bias is not None:
        module.bias.copy_(bias)
    return module


def _padded(layer: FactoredLayer, *modules: nn.Module) -> nn.Module:
    first = [Pad(layer.sides, layer.mode)] if any(getattr(layer, "sides", [])) else []
    return nn.Sequential(*first, *modules) if first or len(modules) > 1 else modules[0]
