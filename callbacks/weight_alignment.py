"""The angle between what carries the error back and what carries activity forward, layer by layer.

Feedback alignment: W with B. Direct feedback, with F_l (c, units of l) from the logits to block l: the product of two
links stands in the place of B, so W_l is compared with F_l^T F_{l-1}, and the read-out W_L with F_{L-1} (Refinetti et
al. 2021, "align, then memorise"). In a Transformer W_l is the last dense layer before a cut, and what lies between it
and the cut before is looked past.
"""

from itertools import pairwise

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from callbacks.forward_trace import Wiring, trace
from callbacks.probe import Batch, Periodic
from lit_fa.functional.alignment import angle, cosine
from lit_fa.layers import WEIGHT_LAYERS, feedback_layers
from lit_fa.layers.linear_chain import dense_weight, transformer_chain
from lit_fa.rules.base import LearningRule

PRODUCT = " * "  # between the names of layers that are compared by their product


class WeightAlignment(Periodic):
    """Logs `align/weight/<layer>` (angle, degrees) and `align/weight_cosine/<layer>`, and both as `/overall`.

    Overall is the angle of all compared weights, concatenated. Layers that have no counterpart of their weight's shape
    (the first under direct feedback, conv layers under direct feedback) are left out and named once in the log. A
    read-out of two layers is compared by their product, as `<classifier> * <pooler>`, which is no part of overall.

    Args:
        every_n_steps: optimiser steps between two measurements; 0: at the end of every epoch.
    """

    def __init__(self, every_n_steps: int = 0):
        """See the class."""
        super().__init__(every_n_steps)
        self.products: dict[str, tuple[Tensor, ...]] = {}

    def prepare(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Find the links that stand for a layer's feedback, and name the layers without counterpart."""
        if getattr(module.rule, "tokens", None) is not None:
            self.products = transformer_links(module.network, module.rule, batch[0])
        elif module.rule.links:
            self.products = chained_links(module.network, module.rule, trace(module.network, batch[0]))
        layers = [name for name, m in module.network.named_modules() if isinstance(m, WEIGHT_LAYERS)]
        compared = {part for name in counterparts(module.network, self.products) for part in name.split(PRODUCT)}
        if left_out := [name for name in layers if name not in compared]:
            rank_zero_info(f"weight alignment: no feedback of the weight's shape for {', '.join(left_out)}")

    @torch.no_grad()
    def measure(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
        """Angles and cosines."""
        compared = counterparts(module.network, self.products)
        pairs = {name: (compared_weight(module.network, name), b) for name, b in compared.items()}
        if single := [pair for name, pair in pairs.items() if PRODUCT not in name]:
            weights, feedback = zip(*single, strict=True)
            pairs["overall"] = tuple(torch.cat([t.flatten() for t in side]) for side in (weights, feedback))
        angles = {f"align/weight/{name}": angle(*pair).item() for name, pair in pairs.items()}
        return angles | {f"align/weight_cosine/{name}": cosine(*pair).item() for name, pair in pairs.items()}


def compared_weight(network: nn.Module, name: str) -> Tensor:
    """(out, in): the weight of a layer, or what the layers of `classifier * pooler` multiply by."""
    found = [dense_weight(network.get_submodule(part)) for part in name.split(PRODUCT)]
    return torch.linalg.multi_dot(found) if len(found) > 1 else found[0]


def counterparts(network: nn.Module, products: dict[str, tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Layer to the matrix, of its weight's shape, that the error goes back through.

    Args:
        network: installed.
        products: of `chained_links`.
    """
    own = {name: layer.feedback.matrix(layer.weight) for name, layer in feedback_layers(network).items()}
    return own | {name: links[0].t() @ links[1] if len(links) > 1 else links[0] for name, links in products.items()}


def chained_links(network: nn.Module, rule: LearningRule, wiring: Wiring) -> dict[str, tuple[Tensor, ...]]:
    """Linear layer to (F_l, F_{l-1}), each (c, units), or for the read-out to (F_{L-1},)."""
    links, found = rule.links, {}
    ends = sorted(links, key=wiring.calls.index)
    begin, below = 0, None
    for block in [*ends, None]:
        end = len(wiring.calls) if block is None else wiring.calls.index(block) + 1
        called = [n for n in wiring.calls[begin:end] if isinstance(network.get_submodule(n), WEIGHT_LAYERS)]
        link = None if block is None else links[block].expand(-1, *wiring.shapes[block])
        chain = () if below is None else (below,) if block is None else (link, below)
        if len(called) == 1 and chain and _fits(network.get_submodule(called[0]), chain):
            found[called[0]] = chain
        begin, below = end, link
    return found


def transformer_links(network: nn.Module, rule: LearningRule, inputs: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """The same between the parts of a Transformer; a read-out of several layers is named `classifier * pooler`."""
    links = {block: link.flatten(1) for block, link in rule.links.items()}
    chain, ends = transformer_chain(network, inputs[:2], [*links]), [*links.values()]
    chains = [*((upper, lower) for lower, upper in pairwise(ends)), (ends[-1],)]
    return {PRODUCT.join(reversed(link)): products for link, products in zip(chain, chains, strict=True) if link}


def _fits(layer: nn.Module, chain: tuple[Tensor, ...]) -> bool:
    if not isinstance(layer, nn.Linear) or any(link.ndim != 2 for link in chain):
        return False
    units = chain[0].shape[1] if len(chain) > 1 else chain[0].shape[0]
    return layer.weight.shape == (units, chain[-1].shape[1])
