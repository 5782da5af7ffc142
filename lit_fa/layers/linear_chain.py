"""The chain of linear layers between cuts: what stands between the feedback of one layer and that of the next."""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_fa.errors import UserError
from lit_fa.layers.observing import Call, calls, observing, recording
from lit_fa.layers.taps import LEARNS

REMEDY = "only linear layers and activations may follow the first cut"


def linear_chain(network: nn.Module, example: Tensor, ends: Sequence[str]) -> list[tuple[str, ...]]:
    """The linear layer between each cut and the next, and last the read-out; nothing where there are several layers.

    What comes before the first cut is free: its weights stand between no two cuts.

    Args:
        network: any module.
        example: (n, ...) inputs, for shape and type.
        ends: modules behind which the network is cut, in the order in which a forward pass meets them.

    Raises:
        UserError: a convolution or a normalisation between cuts, a block whose output is no (n, units), or depends on
            its input by another way than its linear layer; by name.
    """
    modules = {name: m for name, m in network.named_modules() if name}
    seen = calls(network, example, modules)
    sections = _sections(seen, ends)[1:]
    for section in sections:
        _refuse_by_kind([call.name for call in section], modules)
    shapes = {call.name: tuple(call.output.shape[1:]) for call in seen if call.name in ends}
    for name, shape in shapes.items():
        if len(shape) != 1:
            raise UserError(f"{name} puts out {shape} a sample, feedback matching reads (units,): {REMEDY}")
    learning = [[c.name for c in section if isinstance(modules[c.name], LEARNS)] for section in sections]
    chain = [tuple(names) if len(names) == 1 else () for names in learning]
    for link, begin, end in zip(chain, ends, [*ends[1:], None], strict=True):
        for layer in link:
            _check_link(network, example, layer, begin, end)
    return chain


def transformer_chain(network: nn.Module, example: Tensor, ends: Sequence[str]) -> list[tuple[str, ...]]:
    """The same for the parts of a Transformer, where shortcuts, normalisation and attention are looked past.

    The link between two cuts is the last linear layer before the second, if its weight leads from the units of the one
    to those of the other: of attention the output's projection, as if attention handed on what it reads. What leads
    from the last cut to the logits may be several layers (a pooler, a classifier): their product.
    """
    layers = {name: m for name, m in network.named_modules() if name and is_linear(m)}
    layers = {n: m for n, m in layers.items() if not any(n.startswith(outer + ".") for outer in layers)}
    seen = calls(network, example, [*layers, *ends])
    units = {call.name: call.tensor.shape[-1] for call in seen}
    sections = [[call.name for call in section if call.name in layers] for section in _sections(seen, ends)[1:]]
    shapes = [(units[end], units[begin]) for begin, end in pairwise(ends)]
    chain = []
    for names, shape in zip(sections, shapes, strict=False):
        fits = names and tuple(dense_weight(layers[names[-1]]).shape) == shape
        chain.append((names[-1],) if fits else ())
    made = [units[ends[-1]], *(units[name] for name in sections[-1])]
    leads = all(dense_weight(layers[n]).shape == (o, i) for n, (i, o) in zip(sections[-1], pairwise(made), strict=True))
    return [*chain, tuple(sections[-1]) if leads else ()]


def is_linear(module: nn.Module) -> bool:
    """A linear layer, with an adapter or without."""
    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    return isinstance(base, nn.Linear)


def dense_weight(layer: nn.Module) -> Tensor:
    """(out, in) that a linear layer multiplies by, its adapter included."""
    if not hasattr(layer, "get_base_layer"):
        return layer.weight.detach()
    merged = copy.deepcopy(layer)
    merged.merge()
    return merged.get_base_layer().weight.detach()


@torch.no_grad()
def set_dense_weight(layer: nn.Module, weight: Tensor) -> None:
    """Make `dense_weight` equal `weight`, in place; an adapter stays what it is, and what it adds to takes the rest."""
    if hasattr(layer, "get_base_layer"):
        layer.get_base_layer().weight.add_(weight - dense_weight(layer))
    else:
        layer.weight.copy_(weight)


def _sections(seen: list[Call], ends: Sequence[str]) -> list[list[Call]]:
    sections: list[list[Call]] = [[]]
    for call in seen:
        sections[-1].append(call)
        if call.name in ends:
            sections.append([])
    return sections


def _refuse_by_kind(names: list[str], modules: dict[str, nn.Module]) -> None:
    for name in names:
        kind = type(modules[name]).__name__
        if isinstance(modules[name], nn.modules.conv._ConvNd):
            raise UserError(f"feedback matching is for linear layers, and {name} is a convolution ({kind}): {REMEDY}")
        if "norm" in kind.lower():
            raise UserError(f"{name} ({kind}) breaks W_l = F_l F_(l-1)^T between linear layers: {REMEDY}")
        if isinstance(modules[name], LEARNS) and not isinstance(modules[name], nn.Linear):
            raise UserError(f"feedback matching is for linear layers, and {name} is a {kind}: {REMEDY}")


def _check_link(network: nn.Module, example: Tensor, layer: str, begin: str, end: str | None) -> None:
    """With the weight at zero nothing that enters the block may leave it."""
    weight = network.get_submodule(layer).weight
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *example.shape[1:], generator=generator).to(example)
    names = [begin] if end is None else [begin, end]
    with observing(network), torch.no_grad(), recording(network, names) as seen:
        network.eval()
        logits = functional_call(network, {f"{layer}.weight": torch.zeros_like(weight)}, (x,))
    outputs = {call.name: call.output for call in seen}
    out = logits if end is None else outputs[end]
    if not torch.equal(out[0], out[1]):
        raise UserError(f"something goes past {layer}, from {begin} to {end or 'the logits'} (a shortcut?): {REMEDY}")
    if weight.shape != (out.shape[-1], outputs[begin].shape[-1]):
        raise UserError(f"{layer} does not lead from the units of {begin} to those of {end or 'the logits'}: {REMEDY}")
