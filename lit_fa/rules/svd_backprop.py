r"""SVD training: backprop on the factors, so that ranks can be pruned without a single SVD while training.

Yang et al. 2020, arXiv:2004.09031: "we decompose each layer into the form of its full-rank SVD and train on the
decomposed weights", with L = CE + lambda_s Hoyer(s) + lambda_o (orthogonality of U and V):

$L_o = \frac{1}{r^2}\left(\lVert U^\top U-I\rVert_F^2 + \lVert V^\top V-I\rVert_F^2\right)$,
$L_s = \lVert s\rVert_1/\lVert s\rVert_2$.

Here the factors start from the SVD of the initial weight, s stays non-negative, and the penalties' gradients are added
by hand: they need no graph. It is the SVD-BP of SSA's table 2, and what SSA itself is built on.
"""

import logging
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.svd_factors import (
    energy_rank,
    hoyer_gradient,
    newton_schulz,
    orthogonality_gradient,
    qr_retraction,
    tangent,
)
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.factor_network import factor_network, matched
from lit_fa.layers.factored import COLUMNS, FactoredLayer
from lit_fa.rules.base import Criterion, Halves, LearningRule, Progress, State, Tensors, Uncovered, provided, refuse
from lit_fa.rules.rank_schedule import Hoyer, Pruning

log = logging.getLogger(__name__)
Retraction = Literal["none", "newton_schulz", "qr"]
Reduction = Literal["mean", "sum"]
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

    def __init__(
        self,
        rank: int | float | None = None,
        orthogonality: float = 1.0,
        orthogonality_every: int = 1,
        retraction: Retraction = "none",
        retract_every: int = 1,
        project: bool = False,
        hoyer: Hoyer | None = None,
        pruning: Pruning | None = None,
        reduction: Reduction = "mean",
        dense: list[str] | Literal["unfactorable"] | None = None,
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        super().__init__()
        check_literals(__class__, locals())
        _check(rank, orthogonality, orthogonality_every, retract_every)
        self.rank, self.orthogonality, self.orthogonality_every = rank, orthogonality, orthogonality_every
        self.retraction, self.retract_every, self.project = retraction, retract_every, project
        self.hoyer, self.pruning, self.reduction = hoyer, pruning, reduction
        self.dense, self.uncovered = dense, uncovered
        self.held: dict[str, FactoredLayer] = {}  # a plain dictionary: their tensors are the network's
        self.dense_layers: list[str] = []  # left as they were, by choice
        self.pruned: list[str] = []  # those that pruning may touch
        self.floor = 1

    @property
    def follows_length(self) -> list[str]:
        """When ranks are taken away, and how long sparsity is asked for."""
        options = [] if self.pruning is None else ["pruning"]
        if self.hoyer is not None and 0 < self.hoyer.until < 1:
            options.append(f"hoyer.until: {self.hoyer.until:g}")
        return options

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Factor the layers; refuse those that cannot be, unless they are named in `dense`."""
        self.factor(network, example)
        found = self.inspect(network, example, criterion)
        refuse("no gradient reaches", found.unreached, "They take no part in the loss.", uncovered=self.uncovered)
        return found

    def factor(self, network: nn.Module, example: Tensor) -> None:
        """Put factored layers in their places, and find those that may be pruned."""
        made = factor_network(network, example, self.rank, self.dense)
        self.held, self.dense_layers, names = made.layers, made.dense, [*made.layers]
        if self.pruning is not None:
            self.floor = max(made.classes, 4) if self.pruning.floor is None else self.pruning.floor
            kept = (
                [names[0], names[-1]]
                if self.pruning.keep is None
                else matched("pruning.keep", self.pruning.keep, names)
            )
            self.pruned = [name for name in names if name not in kept and made.layers[name].U.requires_grad]
            self._check_floor()
        ranks = [layer.rank for layer in self.held.values()]
        log.info("%d layers in factors, ranks %d to %d", len(ranks), min(ranks), max(ranks))

    def edit_gradients(self, params: State, grads: State, progress: Progress) -> State:
        """Project what the loss says, then add the orthogonality and sparsity gradients as they are."""
        weights, raw = params.network, grads.network
        edited = {key: self.pulled(key, weights, raw, progress) for key in self._keys(COLUMNS) if key in raw}
        penalise = self.orthogonality and progress.step % self.orthogonality_every == 0
        sparse = self.hoyer.strength(progress) if self.hoyer else 0.0
        for key in [key for key in self._keys(("U", "V")) if key in edited]:
            if self.project:
                edited[key] = tangent(weights[key], edited[key])
            if penalise:
                share = self.orthogonality / self.entries(key, 2)
                edited[key] = edited[key] + orthogonality_gradient(weights[key]) * share
        for key in [key for key in self._keys(("s",)) if sparse and key in edited]:
            edited[key] = edited[key] + sparse * hoyer_gradient(weights[key])
        return Halves({key: grad for key, grad in edited.items() if grad is not raw[key]}, {})

    def pulled(self, key: str, params: Tensors, grads: Tensors, progress: Progress) -> Tensor:
        """The gradient of a factor before any projection."""
        return grads[key]

    def after_step(self, params: State, buffers: State, progress: Progress) -> tuple[State, State]:
        """Singular values stay non-negative, pruned columns zero; U and V are retracted; ranks are pruned when due."""
        if self.pruning is not None and progress.epoch_ends:
            self.pruning.check(progress)
        retract = RETRACTIONS[self.retraction] if progress.step % self.retract_every == 0 else None
        due = self.pruning is not None and self.pruning.due(progress)
        changed, renewed = {}, {}
        for name in [name for name, layer in self.held.items() if layer.U.requires_grad]:  # frozen ones stay
            layer = {side: params.network[f"{name}.{side}"] for side in COLUMNS}
            layer["s"] = layer["s"].clamp(min=0)
            if self.pruning is not None:  # before columns meet: momentum still moves those that were pruned
                layer = {side: t * buffers.network[f"{name}.mask"] for side, t in layer.items()}
            if retract is not None:
                layer |= {side: retract(layer[side]) for side in ("U", "V")}
            if due and name in self.pruned:
                layer, kept = self._pruned(name, layer, buffers.network, progress)
                renewed |= kept
            changed |= {f"{name}.{side}": t for side, t in layer.items()}
        return Halves(changed, {}), Halves(renewed, {})

    def evolving(self, buffers: State) -> State:
        """Masks, energies and the feedback of pruned ranks."""
        return Halves({} if self.pruning is None else buffers.network, {})

    @provided(lambda rule: rule.pruning is not None and rule.pruning.physical)
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

    def _pruned(self, name: str, layer: Tensors, buffers: Tensors, progress: Progress) -> tuple[Tensors, Tensors]:
        """A layer whose weak columns are zero and whose others are orthonormal; its mask, energy and feedback."""
        mask, energy = self._kept(layer["s"], buffers[f"{name}.energy"], progress)
        layer = {side: t * mask for side, t in layer.items()}
        layer |= {side: _orthonormal(layer[side], mask) for side in ("U", "V")}
        feedback = [key for side in COLUMNS if (key := f"{name}.feedback.{side}") in buffers]
        return layer, {f"{name}.mask": mask, f"{name}.energy": energy, **{key: buffers[key] * mask for key in feedback}}

    def entries(self, key: str, power: int = 1, rows: int = 1) -> Tensor | int:
        """What a penalty is divided by: its entries where the reduction is `mean`, rows times rank to a power."""
        if self.reduction == "sum":
            return 1
        layer = self.held[key.rpartition(".")[0]]
        return rows * (len(layer.s) if self.pruning is None else layer.mask.sum()) ** power

    def _keys(self, sides: tuple[str, ...]) -> list[str]:
        return [f"{name}.{side}" for name in self.held for side in sides]

    def _check_floor(self) -> None:
        for name in self.pruned:
            if self.rank is not None and (has := len(self.held[name].s)) < self.floor:
                raise UserError(f"{name} has rank {has}, below pruning's floor of {self.floor}: lower pruning.floor")


def _orthonormal(factor: Tensor, mask: Tensor) -> Tensor:
    made = torch.zeros_like(factor)
    made[:, mask] = qr_retraction(factor[:, mask])
    return made


def _check(rank: int | float | None, orthogonality: float, orthogonality_every: int, retract_every: int) -> None:
    if rank is not None and (rank <= 0 or (isinstance(rank, float) and rank > 1)):
        raise UserError(f"rank is a number of at least 1, a share of the full rank in 0 to 1, or null, not {rank}")
    if orthogonality < 0:
        raise UserError(f"orthogonality is a factor of at least 0, not {orthogonality}")
    if orthogonality_every < 1 or retract_every < 1:
        raise UserError("orthogonality_every and retract_every are numbers of steps, at least 1")
