"""Which neurons obey a conservation law, which law, and by name what breaks it for the others."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node

from callbacks.forward_trace import Wiring, parents
from lit_fa.layers import WEIGHT_LAYERS, FeedbackLayer
from lit_fa.rules.base import LearningRule

# Autograd's names of operations f with f(s z) = s f(z) for s > 0 that leave every channel where it is.
HOMOGENEOUS = (
    "Relu", "LeakyRelu", "RreluWithNoise", "Prelu", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "Mean",
    "View", "UnsafeView", "ReshapeAlias", "Reshape", "Squeeze", "Unsqueeze", "Select", "Slice", "Clone", "Alias",
    "ToCopy", "Contiguous", "NativeDropout", "FeatureDropout", "Mul", "Div",
)  # fmt: skip
NORMS = ("BatchNorm", "GroupNorm", "LayerNorm")


@dataclass(frozen=True)
class Neurons:
    """The hidden neurons of one layer: what they receive through and who reads them.

    Attributes:
        name: the layer they are the outputs of.
        scale: (u, i, *k) the layer's weight, or (u,) the scale of the normalisation behind it.
        shift: (u,) bias or the normalisation's shift, or None.
        reader: the layer whose columns they own.
        link: (c, i) direct feedback in the place of the reader's, or None.
        law: see `lit_fa.functional.conservation`.
    """

    name: str
    scale: nn.Parameter
    shift: nn.Parameter | None
    reader: nn.Module
    link: Tensor | None
    law: str

    @property
    def units(self) -> int:
        """Number of neurons (channels)."""
        return self.scale.shape[0]

    def matrix(self) -> Tensor:
        """The reader's feedback of this moment, of its weight's shape."""
        if self.link is not None:
            return self.link
        return self.reader.feedback.matrix(self.reader.weight) if _has_feedback(self.reader) else self.reader.weight


class NoLaw(Exception):
    """Carries the sentence that says why a law does not hold."""


def find_neurons(
    network: nn.Module, rule: LearningRule, wiring: Wiring, law: str = "auto"
) -> tuple[list[Neurons], list[str]]:
    """Pairs of consecutive layers with a potential, and one sentence for everything that keeps a law from holding.

    Behind an activation that is not homogeneous the potential is defined, only not conserved: such a pair is among
    the found, and named.

    Args:
        network: installed.
        rule: its rule.
        wiring: of one forward pass in training mode.
        law: `auto`: what the rule and its feedback source imply; or the law to test on all layers.
    """
    links = rule.links
    if type(rule).surrogate is not LearningRule.surrogate and (
        not links or getattr(rule, "teacher", "error") != "error"
    ):
        return [], [f"{type(rule).__name__} sends back something else than the error: no law is known"]
    layers = {name: m for name, m in network.named_modules() if isinstance(m, WEIGHT_LAYERS)}
    found, broken = [], []
    called = [name for name in wiring.calls if name in layers]
    for name in dict.fromkeys(called):
        if wiring.inputs[name] is None:
            continue
        try:
            owner, scale, shift, remarks = _source(network, wiring, layers, name)
            _check_pair(owner, scale, shift, name, layers[name])
            link = _link(links, wiring, owner, name, layers[name], last=name == called[-1])
            if any(owner == n.name for n in found):  # one layer, two normalisations behind it
                owner = f"{owner}>{name}"
            found.append(Neurons(owner, scale, shift, layers[name], link, _law(law, layers[name], link)))
            broken += remarks
        except NoLaw as reason:
            broken.append(str(reason))
    return found, broken


Source = tuple[str, nn.Parameter, nn.Parameter | None, list[str]]


def _source(network: nn.Module, wiring: Wiring, layers: dict[str, nn.Module], reader: str) -> Source:
    """Walk back from the reader's input to where its neurons are made: (layer, scale, shift, what breaks the law)."""
    made_by = {node: name for name, node in wiring.outputs.items() if name in layers}
    if reader in wiring.ran_twice():
        raise NoLaw(f"{reader} runs more than once in a forward pass")
    node, remarks = wiring.inputs[reader], []
    while node not in made_by:
        _single(node, wiring, reader)
        if any(norm in _kind(node) for norm in NORMS):
            return *_normalised(network, wiring, made_by, node, reader), remarks
        node = _step_back(network, wiring, node, reader, remarks)
    _single(node, wiring, reader)
    name = made_by[node]
    if name in wiring.ran_twice():
        raise NoLaw(f"{name} runs more than once in a forward pass")
    return name, layers[name].weight, layers[name].bias, remarks


def _normalised(
    network: nn.Module, wiring: Wiring, made_by: dict[Node, str], node: Node, reader: str
) -> tuple[str, nn.Parameter, nn.Parameter | None]:
    """Behind a normalisation its scale and shift play the part of weight and bias; named after the layer before."""
    name = wiring.owners.get(node, "")
    norm = network.get_submodule(name)
    if not name or getattr(norm, "weight", None) is None or norm.weight.ndim != 1:
        raise NoLaw(f"the normalisation {name or _kind(node)} before {reader} has no scale for each channel")
    before = node
    while before not in made_by and len(parents(before)[0]) == 1:
        before = parents(before)[0][0]
    return made_by.get(before, name), norm.weight, norm.bias


def _single(node: Node, wiring: Wiring, reader: str) -> None:
    if len(wiring.readers[node]) > 1:
        what = wiring.owners.get(node, _kind(node))
        raise NoLaw(f"the output of {what} is read by more than {reader} (a residual or parallel branch)")


def _step_back(network: nn.Module, wiring: Wiring, node: Node, reader: str, remarks: list[str]) -> Node:
    above, params = parents(node)
    kind, name = _kind(node), wiring.owners.get(node)
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
    if reader.weight.shape[1] % scale.shape[0]:
        raise NoLaw(f"{name} reads {reader.weight.shape[1]} inputs, no multiple of the {scale.shape[0]} of {owner}")
    frozen = not all(p is None or p.requires_grad for p in (scale, shift)) or not reader.weight.requires_grad
    if frozen:
        raise NoLaw(f"{owner} or {name} is frozen, in part or as a whole")


def _link(
    links: dict[str, Tensor], wiring: Wiring, owner: str, name: str, reader: nn.Module, *, last: bool
) -> Tensor | None:
    """Direct feedback to the block before the read-out, spread over the block's positions: (c, i)."""
    if not links:
        return None
    if not last:
        raise NoLaw(f"{owner}: under direct feedback the law holds for the last hidden layer alone")
    block = max(links, key=wiring.calls.index)
    spread = links[block].expand(-1, *wiring.shapes[block]).flatten(1)
    if spread.shape != reader.weight.shape:
        raise NoLaw(f"{name} does not read block {block} as it is, so its weight and the feedback differ in shape")
    return spread


def _law(law: str, reader: nn.Module, link: Tensor | None) -> str:
    if law != "auto":
        return law
    if link is not None:
        return "feedback"
    return reader.feedback.source.law if _has_feedback(reader) else "balance"


def _has_feedback(layer: nn.Module) -> bool:
    return isinstance(layer, FeedbackLayer)


def _kind(node: Node) -> str:
    return node.name().split("Backward")[0]
