"""Finds the neurons that obey a conservation law, with their law, and names the reasons why others do not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_fa.callbacks.forward_trace import ForwardTrace, parents
from lit_fa.functional.conservation import Law
from lit_fa.layers import WEIGHT_LAYERS, FeedbackLayer
from lit_fa.layers.feedback import weight_of
from lit_fa.rules.base import Does, LearningRule

# Autograd's names of operations f with f(s z) = s f(z) for s > 0 that do not mix or move channels.
HOMOGENEOUS = (
    "Relu", "LeakyRelu", "RreluWithNoise", "Prelu", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "Mean",
    "View", "UnsafeView", "ReshapeAlias", "Reshape", "Squeeze", "Unsqueeze", "Select", "Slice", "Clone", "Alias",
    "ToCopy", "Contiguous", "NativeDropout", "FeatureDropout", "Mul", "Div",
)  # fmt: skip
NORMS = ("BatchNorm", "GroupNorm", "LayerNorm")


@dataclass(frozen=True)
class Neurons:
    """The hidden neurons of one layer, with their incoming and outgoing parameters.

    Attributes:
        name: the layer whose outputs they are.
        scale: (u, i, *k) the layer's weight, or (u,) the scale of the normalisation after it.
        shift: (u,) the bias or the normalisation's shift, or None.
        reader: the next layer, which reads the neurons; its weight has their outgoing columns.
        link: (c, i) direct feedback in place of the reader's feedback, or None.
        law: see `lit_fa.functional.conservation`.
    """

    name: str
    scale: nn.Parameter
    shift: nn.Parameter | None
    reader: nn.Module
    link: Tensor | None
    law: Law

    @property
    def units(self) -> int:
        """Number of neurons (channels)."""
        return self.scale.shape[0]

    def matrix(self) -> Tensor:
        """The reader's current feedback, with the shape of its weight."""
        if self.link is not None:
            return self.link
        weight = weight_of(self.reader)
        return self.reader.feedback.matrix(weight) if isinstance(self.reader, FeedbackLayer) else weight

    def matrix_gradient(self) -> Tensor:
        """The gradient of the reader's trained feedback (Kolen-Pollack)."""
        assert isinstance(self.reader, FeedbackLayer)
        stored = self.reader.feedback.weight
        assert stored is not None
        assert stored.grad is not None
        return stored.grad


class NoLaw(Exception):
    """No law holds for a layer; the message is the reason, as one sentence."""


def find_neurons(
    network: nn.Module, rule: LearningRule, forward: ForwardTrace, law: Law | Literal["auto"] = "auto"
) -> tuple[list[Neurons], list[str]]:
    """The neurons between consecutive layers, and one sentence for every reason why a law does not hold.

    After an activation that is not homogeneous the potential is defined but not conserved. Such neurons are returned,
    and the activation is among the reasons.

    Args:
        network: after `rule.install`.
        rule: its rule.
        forward: trace of one forward pass in training mode.
        law: `auto`: the law that the rule and its feedback source imply; or the law to test on all layers.

    Returns:
        The neurons of every hidden layer that has a potential, and the reasons.
    """
    links = rule.links
    if Does.BUILDS in rule.does and (not links or getattr(rule, "teacher", "error") != "error"):
        return [], [f"{type(rule).__name__} sends back something else than the error: no law is known"]
    layers = {name: m for name, m in network.named_modules() if isinstance(m, WEIGHT_LAYERS)}
    conserving: list[Neurons] = []
    broken: list[str] = []
    called = [name for name in forward.calls if name in layers]
    for name in dict.fromkeys(called):
        if forward.inputs[name] is None:
            continue
        try:
            owner, scale, shift, remarks = _source(network, forward, layers, name)
            _check_pair(owner, scale, shift, name, layers[name])
            link = _link(links, forward, owner, name, layers[name], last=name == called[-1])
            if any(owner == n.name for n in conserving):  # one layer followed by two normalisations
                owner = f"{owner}>{name}"
            conserving.append(
                Neurons(
                    name=owner,
                    scale=scale,
                    shift=shift,
                    reader=layers[name],
                    link=link,
                    law=_law(law, layers[name], link),
                )
            )
            broken += remarks
        except NoLaw as reason:
            broken.append(str(reason))
    return conserving, broken


Source = tuple[str, nn.Parameter, nn.Parameter | None, list[str]]


def _source(network: nn.Module, forward: ForwardTrace, layers: Mapping[str, nn.Module], reader: str) -> Source:
    """Walk back from the reader's input to the layer of its neurons: (layer, scale, shift, violations of the law)."""
    layer_of = {node: name for name, node in forward.outputs.items() if name in layers and node is not None}
    if reader in forward.ran_twice():
        raise NoLaw(f"{reader} runs more than once in a forward pass")
    node = forward.inputs[reader]
    assert node is not None  # by the caller
    remarks: list[str] = []
    while node not in layer_of:
        _check_single(node, forward, reader)
        if any(norm in _kind(node) for norm in NORMS):
            return *_normalised(network, forward, layer_of, node, reader), remarks
        node = _step_back(network, forward, node, reader, remarks)
    _check_single(node, forward, reader)
    name = layer_of[node]
    if name in forward.ran_twice():
        raise NoLaw(f"{name} runs more than once in a forward pass")
    scale, shift = _parameters(layers[name])
    return name, scale, shift, remarks


def _normalised(
    network: nn.Module, forward: ForwardTrace, layer_of: dict[Node, str], node: Node, reader: str
) -> tuple[str, nn.Parameter, nn.Parameter | None]:
    """The layer before a normalisation, with the normalisation's scale and shift in place of weight and bias."""
    name = forward.owners.get(node, "")
    norm = network.get_submodule(name)
    if not name or getattr(norm, "weight", None) is None or weight_of(norm).ndim != 1:
        raise NoLaw(f"the normalisation {name or _kind(node)} before {reader} has no scale for each channel")
    before = node
    while before not in layer_of and len(parents(before)[0]) == 1:
        before = parents(before)[0][0]
    return layer_of.get(before, name), *_parameters(norm)


def _parameters(module: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weight and bias of a layer or normalisation."""
    return module.get_parameter("weight"), getattr(module, "bias", None)


def _check_single(node: Node, forward: ForwardTrace, reader: str) -> None:
    if len(forward.readers[node]) > 1:
        what = forward.owners.get(node, _kind(node))
        raise NoLaw(f"the output of {what} is read by more than {reader} (a residual or parallel branch)")


def _step_back(network: nn.Module, forward: ForwardTrace, node: Node, reader: str, remarks: list[str]) -> Node:
    above, params = parents(node)
    kind, name = _kind(node), forward.owners.get(node)
    what = f"{name} ({type(network.get_submodule(name)).__name__})" if name else f"the operation {kind}"
    if len(above) > 1:
        raise NoLaw(f"{what} joins several branches before {reader}")
    if not above or (params and not kind.startswith("Prelu")):
        raise NoLaw(f"{what} before {reader} has a parameter of its own")
    if not kind.startswith(HOMOGENEOUS):
        remarks.append(f"{what} before {reader} is not positively 1-homogeneous")
    return above[0]


def _check_pair(owner: str, scale: nn.Parameter, shift: nn.Parameter | None, name: str, reader: nn.Module) -> None:
    if getattr(reader, "groups", 1) != 1 or getattr(reader, "transposed", False):
        raise NoLaw(f"{name} is a grouped or transposed convolution")
    if weight_of(reader).shape[1] % scale.shape[0]:
        raise NoLaw(
            f"{name} reads {weight_of(reader).shape[1]} inputs, not a multiple of the {scale.shape[0]} of {owner}"
        )
    frozen = not all(p is None or p.requires_grad for p in (scale, shift)) or not weight_of(reader).requires_grad
    if frozen:
        raise NoLaw(f"{owner} or {name} is frozen, in part or as a whole")


def _link(
    links: Mapping[str, Tensor], forward: ForwardTrace, owner: str, name: str, reader: nn.Module, *, last: bool
) -> Tensor | None:
    """Direct feedback (c, i) to the block before the head, repeated over the block's positions."""
    if not links:
        return None
    if not last:
        raise NoLaw(f"{owner}: under direct feedback the law holds for the last hidden layer only")
    block = max(links, key=forward.calls.index)
    feedback = links[block].expand(-1, *forward.shapes[block]).flatten(1)
    if feedback.shape != weight_of(reader).shape:
        raise NoLaw(f"{name} does not read the output of block {block}, so weight and feedback differ in shape")
    return feedback


def _law(law: Law | Literal["auto"], reader: nn.Module, link: Tensor | None) -> Law:
    if law != "auto":
        return law
    if link is not None:
        return "feedback"
    return reader.feedback.source.law if isinstance(reader, FeedbackLayer) else "balance"


def _kind(node: Node) -> str:
    return node.name().split("Backward")[0]
