"""Factors a whole network: the choice of layers and ranks, and the errors for layers that cannot be factored."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.functional.svd_factors import full_rank
from lit_fa.layers.factored import FactoredLayer, factor, tied, why_not
from lit_fa.layers.feedback import WEIGHT_LAYERS, weight_of
from lit_fa.layers.observing import calls
from lit_fa.layers.taps import match


@dataclass(frozen=True)
class Factoring:
    """The layers of a network after factoring.

    Attributes:
        layers: name to factored layer, in the order of a forward pass.
        dense: names of the layers that were not factored.
        classes: c, the number of outputs.
    """

    layers: dict[str, FactoredLayer]
    dense: list[str]
    classes: int


def apply_svd(
    network: nn.Module, example: Tensor, rank: int | float | None = None, dense: list[str] | str | None = None
) -> Factoring:
    """Replace linear and conv layers by factored ones, in place, as `rules.SVDBackprop` does.

    Args:
        network: changed in place.
        example: (n, ...) inputs.
        rank: None for full; a number (at most the full rank of each layer); or a share of the full rank, but at least
            the number of classes and at least four.
        dense: names or patterns of layers that are not factored; `unfactorable`: those that cannot be.

    Raises:
        UserError: layers that cannot be factored, by name and reason; no layer to factor; a rank above every full rank.

    >>> import torch
    >>> network = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> {name: layer.rank for name, layer in apply_svd(network, torch.zeros(2, 8), rank=4).layers.items()}
    {'0': 4, '2': 3}
    """
    order, classes = weight_calls(network, example)
    left = left_dense(network, dense)
    names = [name for name in order if name not in left]
    if bad := {n: why for n in names if (why := _why_not(network, n))}:
        shown = "; ".join(f"{name}: {why}" for name, why in [*bad.items()][:4])
        remedy = f"leave them dense with dense: [{next(iter(bad))}] or, all of them, with dense: unfactorable"
        raise UserError(f"{len(bad)} layers cannot be factored ({shown}): {remedy}")
    if not names:
        raise UserError("there is no layer to factor: wrap the network in nn.Sequential, or shorten dense")
    full = {name: full_rank(weight_of(network.get_submodule(name)).shape) for name in names}
    if isinstance(rank, int) and rank > max(full.values()):
        raise UserError(f"rank {rank} is above the full rank of every layer; the largest is {max(full.values())}")
    layers = {name: factor(network, name, _of_layer(rank, full[name], max(classes, 4))) for name in names}
    return Factoring(layers, left, classes)


def weight_calls(network: nn.Module, example: Tensor) -> tuple[list[str], int]:
    """Names of the layers with a weight, in the order of one forward pass, and the number of outputs."""
    weighted = [name for name, m in network.named_modules() if name and isinstance(m, WEIGHT_LAYERS)]
    *layer_calls, whole = calls(network, example, [*weighted, ""])
    return [*dict.fromkeys(call.name for call in layer_calls)], whole.output.shape[-1]


def left_dense(network: nn.Module, dense: list[str] | str | None) -> list[str]:
    """The layers that `dense` names."""
    weighted = [name for name, m in network.named_modules() if isinstance(m, WEIGHT_LAYERS)]
    if isinstance(dense, str):
        return [name for name in weighted if _why_not(network, name)]
    return matched("dense", dense or [], weighted)


def matched(option: str, patterns: list[str], names: list[str]) -> list[str]:
    """The names that match the patterns.

    Raises:
        UserError: a pattern without a match; the message names the option.
    """
    try:
        return match(patterns, names) if patterns else []
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def _why_not(network: nn.Module, name: str) -> str | None:
    return why_not(network.get_submodule(name)) or tied(network, name)


def _of_layer(rank: int | float | None, full: int, least: int) -> int | None:
    if rank is None:
        return None
    return min(max(math.ceil(rank * full), least) if isinstance(rank, float) else rank, full)
