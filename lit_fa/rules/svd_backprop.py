r"""SVD training: backprop on the factors, so that ranks can be pruned without a single SVD while training.

Yang et al. 2020, arXiv:2004.09031: "we decompose each layer into the form of its full-rank SVD and train on the
decomposed weights", with L = CE + lambda_s Hoyer(s) + lambda_o (orthogonality of U and V):

$L_o = \frac{1}{r^2}\left(\lVert U^\top U-I\rVert_F^2 + \lVert V^\top V-I\rVert_F^2\right)$,
$L_s = \lVert s\rVert_1/\lVert s\rVert_2$.

Here the factors start from the SVD of the initial weight, s stays non-negative, and the penalties' gradients are added
by hand: they need no graph. It is the SVD-BP of SSA's table 2, and what SSA itself is built on.
"""

import logging
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.functional.factored import (
    energy_rank,
    full_rank,
    hoyer_gradient,
    newton_schulz,
    orthogonality_gradient,
    qr_retraction,
    tangent,
)
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.factored import COLUMNS, FactoredLayer, factor, factored_layers, why_not
from lit_fa.layers.feedback import WEIGHT_LAYERS
from lit_fa.layers.observing import observing
from lit_fa.layers.taps import match
from lit_fa.rules.base import Criterion, LearningRule, Progress, Tensors, refuse
from lit_fa.rules.rank_schedule import Hoyer, Pruning

log = logging.getLogger(__name__)
RETRACTIONS = {"none": None, "newton_schulz": newton_schulz, "qr": qr_retraction}


class SVDBackprop(LearningRule):
    """Train U, s and V of every linear and conv layer by backprop.

    Args:
        rank: of all factors: None for full, a number (at most a layer's full rank), or a share of the full rank.
        orthogonality: factor on the orthogonality penalty (gamma, lambda_o).
        orthogonality_every: steps between two additions of its gradient, which costs 4 (a + b) r^2 products a layer
            whatever the batch.
        retraction: what is done to U and V after a step: `none`, `newton_schulz` or `qr`.
        retract_every: steps between two retractions.
        project: project the gradients of U and V on the tangent space of orthonormal columns.
        hoyer: the sparsity term of s, or None.
        pruning: or None.
        reduction: `mean`: penalties over entries, so that their factors do not depend on width; `sum`.
        dense: names or patterns of layers that keep their dense weight; `unfactorable`: those that have no factors
            (grouped convolutions, layers with a forward of their own).
        uncovered: what to do about tensors without gradient: `raise`, `warn` or `allow`.
    """

    paper: ClassVar[str] = "Yang et al. 2020, arXiv:2004.09031"
    evolves = True

    def __init__(
        self,
        rank: int | float | None = None,
        orthogonality: float = 1.0,
        orthogonality_every: int = 1,
        retraction: str = "none",
        retract_every: int = 1,
        project: bool = False,
        hoyer: Hoyer | None = None,
        pruning: Pruning | None = None,
        reduction: str = "mean",
        dense: list[str] | str | None = None,
        uncovered: str = "raise",
    ):
        """See the class."""
        super().__init__()
        _check(rank, dense, orthogonality, orthogonality_every, retraction, retract_every, reduction, uncovered)
        self.rank, self.orthogonality, self.orthogonality_every = rank, orthogonality, orthogonality_every
        self.retraction, self.retract_every, self.project = retraction, retract_every, project
        self.hoyer, self.pruning, self.reduction = hoyer, pruning, reduction
        self.dense, self.uncovered = dense or [], uncovered
        self.reshapes = pruning is not None and pruning.physical
        self.layers: list[str] = []  # factored, in the order in which a forward pass meets them
        self.dense_layers: list[str] = []  # left as they were, by choice
        self.pruned: list[str] = []  # those that pruning may touch
        self.floor = 1

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Factor the layers; refuse those that cannot be, unless they are named in `dense`."""
        classes = self.factor(network, example)
        found = self.inspect(network, example, criterion)
        refuse("no gradient reaches", found.unreached, "They take no part in the loss.", uncovered=self.uncovered)
        self._say(network, classes)
        return found

    def factor(self, network: nn.Module, example: Tensor) -> int:
        """Put factored layers in their places, in the order of a forward pass; returns the number of classes."""
        order, classes = _calls(network, example)
        names = self._chosen(network, order)
        self._check_rank(network, names)
        for name in names:
            factor(network, name, _rank(self.rank, network.get_submodule(name).weight.shape))
        self.layers = names
        self.floor = max(classes, 4) if self.pruning is None or self.pruning.floor is None else self.pruning.floor
        if self.pruning is not None:
            kept = [names[0], names[-1]] if self.pruning.keep is None else _match("pruning.keep", self.pruning.keep, names)
            self.pruned = [name for name in names if name not in kept]
            self._check_floor(network)
        return classes

    def edit_gradients(self, params: Tensors, grads: Tensors, progress: Progress) -> Tensors:
        """Project what the loss says, then add the orthogonality and sparsity gradients as they are."""
        edited = {}
        penalise = self.orthogonality and progress.step % self.orthogonality_every == 0
        sparse = self.hoyer.strength(progress) if self.hoyer else 0.0
        for name in self.layers:
            for side in ("U", "V"):
                key = f"network.{name}.{side}"
                if key not in grads:
                    continue
                factor, grad = params[key], self.pulled(key, params, grads, progress)
                grad = tangent(factor, grad) if self.project else grad
                if penalise:
                    share = self.orthogonality * self._mean(factor.shape[1] ** 2)
                    grad = torch.add(grad, orthogonality_gradient(factor), alpha=share)
                edited[key] = grad
            key = f"network.{name}.s"
            if key in grads:
                edited[key] = self.pulled(key, params, grads, progress)
                if sparse:
                    edited[key] = edited[key] + sparse * hoyer_gradient(params[key])
        return edited

    def pulled(self, key: str, params: Tensors, grads: Tensors, progress: Progress) -> Tensor:
        """The gradient of a factor before any projection."""
        return grads[key]

    def after_step(self, params: Tensors, buffers: Tensors, progress: Progress) -> tuple[Tensors, Tensors]:
        """Singular values stay non-negative, pruned columns zero; U and V are retracted; ranks go when they are due."""
        changed, renewed = {}, {}
        retract = RETRACTIONS[self.retraction] if progress.step % self.retract_every == 0 else None
        due = self.pruning is not None and self.pruning.due(progress)
        if self.pruning is not None and progress.epoch_ends:
            self.pruning.check(progress)
        for name in self.layers:
            prefix = f"network.{name}."
            layer = {side: params[prefix + side] for side in COLUMNS if prefix + side in params}
            mask = buffers[prefix + "mask"]
            layer["s"] = layer["s"].clamp(min=0)
            if retract is not None:
                layer |= {side: retract(layer[side]) for side in ("U", "V")}
            if due and name in self.pruned:
                mask, energy = self._kept(layer["s"], buffers[prefix + "energy"], progress)
                renewed |= {prefix + "mask": mask, prefix + "energy": energy}
                renewed |= self._masked_feedback(prefix, buffers, mask)
            if self.pruning is not None:
                layer = {side: t * mask for side, t in layer.items()}
            if due and name in self.pruned:
                layer |= {side: _orthonormal(layer[side], mask) for side in ("U", "V")}
            changed |= {prefix + side: t for side, t in layer.items()}
        return changed, renewed

    @torch.no_grad()
    def reshape(self, network: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Take pruned columns out of parameters, feedback and optimiser state."""
        for name in self.pruned:
            network.get_submodule(name).shrink(optimizer)

    def _kept(self, s: Tensor, energy: Tensor, progress: Progress) -> tuple[Tensor, Tensor]:
        if self.pruning.of == "current" or self.pruning.is_first(progress):
            energy = s.double().square().sum().to(energy.dtype)
        rank = max(energy_rank(s, self.pruning.energy * energy), min(self.floor, int((s > 0).sum())))
        mask = torch.zeros_like(s, dtype=torch.bool)
        mask[s.argsort(descending=True, stable=True)[:rank]] = True
        return mask, energy

    @staticmethod
    def _masked_feedback(prefix: str, buffers: Tensors, mask: Tensor) -> Tensors:
        keys = [key for side in COLUMNS if (key := f"{prefix}feedback.{side}") in buffers]
        return {key: buffers[key] * mask for key in keys}

    def _mean(self, entries: int) -> float:
        return 1 / entries if self.reduction == "mean" else 1.0

    def _chosen(self, network: nn.Module, order: list[str]) -> list[str]:
        weighted = [n for n, m in network.named_modules() if isinstance(m, WEIGHT_LAYERS)]
        if isinstance(self.dense, str):
            self.dense_layers = [name for name in weighted if why_not(network.get_submodule(name))]
        else:
            self.dense_layers = _match("dense", self.dense, weighted)
        names = [name for name in order if name not in self.dense_layers]
        if bad := {n: why for n in names if (why := why_not(network.get_submodule(n)))}:
            shown = "; ".join(f"{name}: {why}" for name, why in [*bad.items()][:4])
            raise UserError(
                f"{len(bad)} layers cannot be factored ({shown}): leave them dense with dense: [{[*bad][0]}] or, all of "
                "them, with dense: unfactorable"
            )
        if not names:
            raise UserError("there is no layer to factor: wrap the network in nn.Sequential, or shorten dense")
        return names

    def _check_rank(self, network: nn.Module, names: list[str]) -> None:
        largest = max(full_rank(network.get_submodule(name).weight.shape) for name in names)
        if isinstance(self.rank, int) and self.rank > largest:
            raise UserError(f"rank {self.rank} is above the full rank of every layer; the largest is {largest}")

    def _check_floor(self, network: nn.Module) -> None:
        for name in self.pruned:
            has = len(network.get_submodule(name).s)
            if self.rank is not None and has < self.floor:
                raise UserError(f"{name} has rank {has}, below pruning's floor of {self.floor}: lower pruning.floor")

    def _say(self, network: nn.Module, classes: int) -> None:
        layers = factored_layers(network)
        ranks = [layer.rank for layer in layers.values()]
        log.info("%d layers in factors, ranks %d to %d", len(layers), min(ranks), max(ranks))


def _orthonormal(factor: Tensor, mask: Tensor) -> Tensor:
    made = torch.zeros_like(factor)
    made[:, mask] = qr_retraction(factor[:, mask])
    return made


def _rank(rank: int | float | None, shape: torch.Size) -> int | None:
    full = full_rank(shape)
    if rank is None:
        return None
    return max(1, math.ceil(rank * full)) if isinstance(rank, float) else min(rank, full)


def _calls(network: nn.Module, example: Tensor) -> tuple[list[str], int]:
    """Layers with a weight in the order of one forward pass, and the number of classes."""
    called: dict[str, None] = {}
    layers = {name: m for name, m in network.named_modules() if name and isinstance(m, (*WEIGHT_LAYERS, FactoredLayer))}
    hooks = [m.register_forward_hook(lambda _m, _a, _o, n=n: called.setdefault(n)) for n, m in layers.items()]
    try:
        with observing(network), torch.no_grad():
            classes = network(example).shape[-1]
    finally:
        for hook in hooks:
            hook.remove()
    return [*called], classes


def _match(option: str, patterns: list[str], names: list[str]) -> list[str]:
    try:
        return match(patterns, names) if patterns else []
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def _check(rank, dense, orthogonality, orthogonality_every, retraction, retract_every, reduction, uncovered) -> None:
    if rank is not None and (rank <= 0 or (isinstance(rank, float) and rank > 1)):
        raise UserError(f"rank is a number of at least 1, a share of the full rank in 0 to 1, or null, not {rank}")
    if isinstance(dense, str) and dense != "unfactorable":
        raise UserError(f"dense is a list of layers, or unfactorable, not '{dense}'")
    if orthogonality < 0:
        raise UserError(f"orthogonality is a factor of at least 0, not {orthogonality}")
    if orthogonality_every < 1 or retract_every < 1:
        raise UserError("orthogonality_every and retract_every are numbers of steps, at least 1")
    for name, value, valid in (
        ("retraction", retraction, (*RETRACTIONS,)),
        ("reduction", reduction, ("mean", "sum")),
        ("uncovered", uncovered, ("raise", "warn", "allow")),
    ):
        if value not in valid:
            raise UserError(f"{name} is one of {', '.join(valid)}, not '{value}'")
