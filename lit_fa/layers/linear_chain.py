"""The linear layers between stop-gradients, to which feedback-weight matching applies."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_fa.errors import UserError
from lit_fa.layers.feedback import weight_of
from lit_fa.layers.observing import Call, calls, observing, recording
from lit_fa.layers.taps import LEARNS

REMEDY = "only linear layers and activations may follow the first block"


def linear_chain(network: nn.Module, example: Tensor, ends: Sequence[str]) -> list[tuple[str, ...]]:
    """The name of the linear layer between each stop-gradient and the next, and at last of the head.

    An entry is empty if there are several layers. The layers before the first stop-gradient may be of any kind.

    Args:
        network: any module.
        example: (n, ...) inputs, for shape and type.
        ends: modules with a stop-gradient after them, in the order of a forward pass.

    Raises:
        UserError: a convolution or a normalisation between stop-gradients, or a block whose output is not (n, units) or
            depends on its input not only through its linear layer; by name.
    """
    modules = {name: m for name, m in network.named_modules() if name}
    recorded = calls(network, example, modules)
    sections = _sections(recorded, ends)[1:]
    for section in sections:
        _refuse_by_kind([call.name for call in section], modules)
    shapes = {call.name: tuple(call.output.shape[1:]) for call in recorded if call.name in ends}
    for name, shape in shapes.items():
        if len(shape) != 1:
            raise UserError(f"the output of {name} is {shape} a sample, and feedback matching needs (units,): {REMEDY}")
    learning = [[c.name for c in section if isinstance(modules[c.name], LEARNS)] for section in sections]
    chain = [tuple(names) if len(names) == 1 else () for names in learning]
    for link, begin, end in zip(chain, ends, [*ends[1:], None], strict=True):
        for layer in link:
            _check_link(network, example, layer, begin, end)
    return chain


def transformer_chain(network: nn.Module, example: Tensor, ends: Sequence[str]) -> list[tuple[str, ...]]:
    """As `linear_chain` for the sublayers of a Transformer; residual connections, norms and attention are ignored.

    The entry between two stop-gradients is the last linear layer before the second one, if its weight maps the units of
    the first to those of the second. Of attention this is the output projection, as if attention were the identity. The
    entry of the head may have several layers (pooler, classifier), whose product is meant.
    """
    layers = {name: m for name, m in network.named_modules() if name and is_linear(m)}
    layers = {n: m for n, m in layers.items() if not any(n.startswith(outer + ".") for outer in layers)}
    recorded = calls(network, example, [*layers, *ends])
    units = {call.name: call.tensor.shape[-1] for call in recorded}
    sections = [[call.name for call in section if call.name in layers] for section in _sections(recorded, ends)[1:]]
    shapes = [(units[end], units[begin]) for begin, end in pairwise(ends)]
    chain = []
    for names, shape in zip(sections, shapes, strict=False):
        fits = names and tuple(dense_weight(layers[names[-1]]).shape) == shape
        chain.append((names[-1],) if fits else ())
    sizes = [units[ends[-1]], *(units[name] for name in sections[-1])]
    shapes = [(o, i) for i, o in pairwise(sizes)]
    fits = all(dense_weight(layers[name]).shape == shape for name, shape in zip(sections[-1], shapes, strict=True))
    return [*chain, tuple(sections[-1]) if fits else ()]


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a linear layer, with or without an adapter."""
    return isinstance(_base(module), nn.Linear)


def dense_weight(layer: nn.Module) -> Tensor:
    """The weight (out, in) of a linear layer, including its adapter."""
    if _base(layer) is layer:
        return weight_of(layer).detach()
    merged: Any = copy.deepcopy(layer)
    merged.merge()
    return weight_of(_base(merged)).detach()


@torch.no_grad()
def set_dense_weight(layer: nn.Module, weight: Tensor) -> None:
    """Make `dense_weight` equal to `weight`, in place; an adapter is not changed, only the weight below it."""
    if (base := _base(layer)) is layer:
        weight_of(layer).copy_(weight)
    else:
        weight_of(base).add_(weight - dense_weight(layer))


def _base(layer: nn.Module) -> nn.Module:
    """The layer below an adapter of peft, or the layer itself."""
    get = getattr(layer, "get_base_layer", None)
    return layer if get is None else get()


def _sections(recorded: list[Call], ends: Sequence[str]) -> list[list[Call]]:
    sections: list[list[Call]] = [[]]
    for call in recorded:
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
    """Check that the output of the block does not depend on its input if the layer's weight is zero."""
    weight = weight_of(network.get_submodule(layer))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *example.shape[1:], generator=generator).to(example)
    names = [begin] if end is None else [begin, end]
    with observing(network), torch.no_grad(), recording(network, names) as recorded:
        network.eval()
        logits = functional_call(network, {f"{layer}.weight": torch.zeros_like(weight)}, (x,))
    outputs = {call.name: call.output for call in recorded}
    out = logits if end is None else outputs[end]
    if not torch.equal(out[0], out[1]):
        raise UserError(f"a path from {begin} to {end or 'the logits'} bypasses {layer} (a shortcut?): {REMEDY}")
    if weight.shape != (out.shape[-1], outputs[begin].shape[-1]):
        raise UserError(f"{layer} does not map the units of {begin} to those of {end or 'the logits'}: {REMEDY}")
