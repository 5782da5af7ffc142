"""The chain of linear layers between cuts: what stands between the feedback of one layer and that of the next."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_fa.errors import UserError
from lit_fa.layers.observing import Call, calls, observing, recording
from lit_fa.layers.taps import LEARNS

REMEDY = "only linear layers and activations may follow the first cut"


def linear_chain(network: nn.Module, example: Tensor, ends: Sequence[str]) -> list[str | None]:
    """The linear layer between each cut and the next, and last the read-out; None where there are several layers.

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
    chain = [names[0] if len(names) == 1 else None for names in learning]
    for layer, begin, end in zip(chain, ends, [*ends[1:], None], strict=True):
        if layer is not None:
            _check_link(network, example, layer, begin, end)
    return chain


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
