"""The angle between the forward weight and the backward matrix of every layer.

Feedback alignment: W with B. Direct feedback with matrices F_l (c, units of l) from the logits to block l: W_l is
compared with F_l^T F_{l-1}, which takes the place of B, and the head W_L with F_{L-1} (Refinetti et al. 2021, "align,
then memorise"). In a Transformer W_l is the last dense layer before a stop-gradient; the operations between it and the
stop-gradient before it are ignored.
"""

from itertools import pairwise

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lit_fa.callbacks.forward_trace import ForwardTrace, trace
from lit_fa.callbacks.probe import Batch, Periodic, learner_of
from lit_fa.functional.alignment import angle, cosine
from lit_fa.layers import WEIGHT_LAYERS, feedback_layers
from lit_fa.layers.linear_chain import dense_weight, transformer_chain
from lit_fa.rules.base import LearningRule
from lit_fa.rules.learner import Learner

PRODUCT = " * "  # between the names of layers that are compared by their product


class WeightAlignment(Periodic):
    """Logs `align/weight/<layer>` (angle, degrees) and `align/weight_cosine/<layer>`, and both as `/overall`.

    `overall` is the angle of all compared weights, concatenated. Layers without a backward matrix of their weight's
    shape (the first layer and conv layers under direct feedback) are omitted and named once in the log. If the head has
    two layers, their product is compared, under the name `<classifier> * <pooler>`; it is not part of `overall`.

    Args:
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.
    """

    def __init__(self, every_n_steps: int = 0):
        """See the class."""
        super().__init__(every_n_steps)
        self.products: dict[str, tuple[Tensor, ...]] = {}

    def prepare(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Find the direct feedback matrices of each layer, and log the layers that cannot be compared."""
        learner = learner_of(module)
        self.products = products_of(learner, batch[0])
        layers = [name for name, m in learner.network.named_modules() if isinstance(m, WEIGHT_LAYERS)]
        compared = {part for name in counterparts(learner.network, self.products) for part in name.split(PRODUCT)}
        if left_out := [name for name in layers if name not in compared]:
            rank_zero_info(f"weight alignment: no feedback of the weight's shape for {', '.join(left_out)}")

    def measure(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """Angles and cosines, by key; the order of the layers is taken from a forward pass over the batch."""
        return _angles(learner.network, products_of(learner, batch[0]))

    def observe(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        """As `measure`, with the order of the layers that `prepare` has recorded."""
        return _angles(learner_of(module).network, self.products)


def products_of(learner: Learner, inputs: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """Layer to the matrices of direct feedback whose product is compared with its weight; none under other rules."""
    network, rule = learner.network, learner.rule
    if getattr(rule, "tokens", None) is not None:
        return transformer_links(network, rule, inputs)
    return block_links(network, rule, trace(network, inputs)) if rule.links else {}


@torch.no_grad()
def _angles(network: nn.Module, products: dict[str, tuple[Tensor, ...]]) -> dict[str, float]:
    compared = counterparts(network, products)
    pairs = {name: (compared_weight(network, name), b) for name, b in compared.items()}
    if single := [pair for name, pair in pairs.items() if PRODUCT not in name]:
        weights, feedback = zip(*single, strict=True)
        pairs["overall"] = torch.cat([w.flatten() for w in weights]), torch.cat([b.flatten() for b in feedback])
    angles = {f"align/weight/{name}": angle(*pair).item() for name, pair in pairs.items()}
    return angles | {f"align/weight_cosine/{name}": cosine(*pair).item() for name, pair in pairs.items()}


def compared_weight(network: nn.Module, name: str) -> Tensor:
    """The weight (out, in) of a layer, or the product of the weights of `classifier * pooler`."""
    weights = [dense_weight(network.get_submodule(part)) for part in name.split(PRODUCT)]
    return torch.linalg.multi_dot(weights) if len(weights) > 1 else weights[0]


def counterparts(network: nn.Module, products: dict[str, tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Layer to its backward matrix, which has the shape of its weight.

    Args:
        network: after the rule's `install`.
        products: from `block_links` or `transformer_links`.
    """
    own = {name: layer.feedback.matrix(layer.weight) for name, layer in feedback_layers(network).items()}
    return own | {name: links[0].t() @ links[1] if len(links) > 1 else links[0] for name, links in products.items()}


def block_links(network: nn.Module, rule: LearningRule, forward: ForwardTrace) -> dict[str, tuple[Tensor, ...]]:
    """Linear layer to (F_l, F_{l-1}), each (c, units); the head to (F_{L-1},)."""
    links = rule.links
    of_layer: dict[str, tuple[Tensor, ...]] = {}
    ends = sorted(links, key=forward.calls.index)
    begin = 0
    below: Tensor | None = None
    for block in [*ends, None]:
        end = len(forward.calls) if block is None else forward.calls.index(block) + 1
        called = [n for n in forward.calls[begin:end] if isinstance(network.get_submodule(n), WEIGHT_LAYERS)]
        link = None if block is None else links[block].expand(-1, *forward.shapes[block])
        pair = () if below is None else (below,) if link is None else (link, below)
        if len(called) == 1 and pair and _fits(network.get_submodule(called[0]), pair):
            of_layer[called[0]] = pair
        begin, below = end, link
    return of_layer


def transformer_links(network: nn.Module, rule: LearningRule, inputs: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """As `block_links`, between the sublayers of a Transformer; a head of two layers is named `classifier * pooler`."""
    links = {block: link.flatten(1) for block, link in rule.links.items()}
    chain, ends = transformer_chain(network, inputs[:2], [*links]), [*links.values()]
    chains: list[tuple[Tensor, ...]] = [*((upper, lower) for lower, upper in pairwise(ends)), (ends[-1],)]
    return {PRODUCT.join(reversed(link)): products for link, products in zip(chain, chains, strict=True) if link}


def _fits(layer: nn.Module, links: tuple[Tensor, ...]) -> bool:
    if not isinstance(layer, nn.Linear) or any(link.ndim != 2 for link in links):
        return False
    units = links[0].shape[1] if len(links) > 1 else links[0].shape[0]
    return layer.weight.shape == (units, links[-1].shape[1])
