r"""SVD training: backprop on the factors, so that ranks can be pruned during training without an SVD.

Yang et al. 2020, arXiv:2004.09031: "we decompose each layer into the form of its full-rank SVD and train on the
decomposed weights", with L = CE + lambda_s Hoyer(s) + lambda_o (orthogonality of U and V):

$L_o = \frac{1}{r^2}\left(\lVert U^\top U-I\rVert_F^2 + \lVert V^\top V-I\rVert_F^2\right)$,
$L_s = \lVert s\rVert_1/\lVert s\rVert_2$.

Here the factors start from the SVD of the initial weight, s stays non-negative, and the gradients of the penalties are
computed explicitly, without a graph. It is the SVD-BP of SSA's table 2, and SSA is a subclass.
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
from lit_fa.layers.factor_network import apply_svd, matched
from lit_fa.layers.factored import COLUMNS, FactoredLayer, Products
from lit_fa.rules.base import (
    UNUSED,
    Criterion,
    Edits,
    Halves,
    LearningRule,
    Progress,
    State,
    Tensors,
    Uncovered,
    provided,
    refuse,
)
from lit_fa.rules.rank_schedule import Hoyer, Pruning

log = logging.getLogger(__name__)
Retraction = Literal["none", "newton_schulz", "qr"]
Reduction = Literal["mean", "sum"]
RETRACTIONS = {"none": None, "newton_schulz": newton_schulz, "qr": qr_retraction}


class SVDBackprop(LearningRule):
    """Train U, s and V of every linear and conv layer by backprop.

    Args:
        rank: of all factors: None for full, a number (at most a layer's full rank), or a share of the full rank, but
            at least the number of classes and at least four.
        orthogonality: factor on the orthogonality penalty (gamma, lambda_o).
        orthogonality_every: steps between two additions of its gradient, which costs 4 (a + b) r^2 products per layer
            for any batch size.
        retraction: of U and V after a step: `none`, `newton_schulz` or `qr`.
        retract_every: steps between two retractions.
        project: whether to project the gradients of U and V on the tangent space of orthonormal columns.
        hoyer: the sparsity term of s, or None.
        pruning: the schedule of pruning, or None.
        reduction: `mean` divides penalties by the number of entries, so that their factors do not depend on the width;
            `sum` does not.
        dense: names or patterns of layers that are not factored; `unfactorable`: those that cannot be (grouped
            convolutions, layers with their own forward).
        uncovered: what to do about tensors without gradient: `raise`, `warn` or `allow`.
        products: `factors`; or `fewest`: layers whose factors have more entries than the dense weight, as the first
            convolution at nearly every rank, compute their output with the weight that is composed for the batch. The
            results are equal up to rounding.

    Attributes:
        factored: name to factored layer, after `install`.
        dense_layers: names of the layers that were not factored.
        pruned: names of the layers that pruning may change.

    Raises:
        UserError: an invalid option; at `install`, layers that cannot be factored.

    >>> network, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2)), torch.zeros(2, 16)
    >>> rule = SVDBackprop(rank=0.5)
    >>> _ = rule.install(network, x, nn.functional.cross_entropy)
    >>> network[0].rank, network[0].merged().shape
    (8, torch.Size([32, 16]))
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
        products: Products = "factors",
    ):
        """See the class."""
        super().__init__()
        check_literals(SVDBackprop, locals())
        _check(rank, orthogonality, orthogonality_every, retract_every)
        self.rank, self.orthogonality, self.orthogonality_every = rank, orthogonality, orthogonality_every
        self.retraction, self.retract_every, self.project = retraction, retract_every, project
        self.hoyer, self.pruning, self.reduction = hoyer, pruning, reduction
        self.dense, self.uncovered, self.products = dense, uncovered, products
        self.factored: dict[str, FactoredLayer] = {}  # not registered, because they belong to the network
        self.dense_layers: list[str] = []
        self.pruned: list[str] = []
        self.floor = 1

    @property
    def follows_length(self) -> list[str]:
        """The schedules of pruning and sparsity."""
        options = [] if self.pruning is None else ["pruning"]
        if self.hoyer is not None and 0 < self.hoyer.until < 1:
            options.append(f"hoyer.until: {self.hoyer.until:g}")
        return options

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Factor the layers, except those in `dense`."""
        self.factor(network, example)
        untreated = self.inspect(network, example, criterion)
        refuse("no gradient reaches", untreated.unreached, UNUSED, uncovered=self.uncovered)
        return untreated

    def factor(self, network: nn.Module, example: Tensor) -> None:
        """Replace layers by factored ones, and determine which of them may be pruned."""
        factoring = apply_svd(network, example, self.rank, self.dense)
        self.factored, self.dense_layers, names = factoring.layers, factoring.dense, [*factoring.layers]
        for layer in self.factored.values():
            layer.products = self.products
        if (pruning := self.pruning) is not None:
            self.floor = max(factoring.classes, 4) if pruning.floor is None else pruning.floor
            ends = [names[0], names[-1]]
            excluded = ends if pruning.keep is None else matched("pruning.keep", pruning.keep, names)
            self.pruned = [n for n, layer in self.factored.items() if n not in excluded and layer.U.requires_grad]
            self._check_floor()
        ranks = [layer.rank for layer in self.factored.values()]
        log.info("%d factored layers, ranks %d to %d", len(ranks), min(ranks), max(ranks))

    def edit_gradients(self, params: State, grads: State, progress: Progress) -> Edits:
        """Project the gradient of the loss, then add the orthogonality and sparsity gradients without projection."""
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
        """Keep s non-negative and pruned columns zero, retract U and V, and prune if due."""
        if self.pruning is not None and progress.epoch_ends:
            self.pruning.check(progress)
        retract = RETRACTIONS[self.retraction] if progress.step % self.retract_every == 0 else None
        due = self.pruning if self.pruning is not None and self.pruning.due(progress) else None
        changed: Tensors = {}
        renewed: Tensors = {}
        for name in [name for name, layer in self.factored.items() if layer.U.requires_grad]:
            layer = {side: params.network[f"{name}.{side}"] for side in COLUMNS}
            layer["s"] = layer["s"].clamp(min=0)
            if self.pruning is not None:  # before the retraction: momentum still moves pruned columns
                layer = {side: t * buffers.network[f"{name}.mask"] for side, t in layer.items()}
            if retract is not None:
                layer |= {side: retract(layer[side]) for side in ("U", "V")}
            if due is not None and name in self.pruned:
                layer, state = self._prune(due, name, layer, buffers.network, progress)
                renewed |= state
            changed |= {f"{name}.{side}": t for side, t in layer.items()}
        return Halves(changed, {}), Halves(renewed, {})

    def evolving(self, buffers: State) -> State:
        """All buffers of the network if ranks are pruned: masks, energies and feedback."""
        return Halves({} if self.pruning is None else buffers.network, {})

    @provided(lambda rule: rule.pruning is not None and rule.pruning.physical)
    @torch.no_grad()
    def reshape(self, network: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Remove pruned columns from parameters, feedback and optimiser state."""
        for name in self.pruned:
            self.factored[name].shrink(optimizer)

    def _mask(self, pruning: Pruning, s: Tensor, energy: Tensor, progress: Progress) -> tuple[Tensor, Tensor]:
        """(mask (r,) of the ranks that remain, reference energy)."""
        if pruning.of == "current" or pruning.is_first(progress):
            energy = s.double().square().sum().to(energy.dtype)
        rank = max(energy_rank(s, pruning.energy * energy), min(self.floor, int((s > 0).sum())))
        mask = torch.zeros_like(s, dtype=torch.bool)
        mask[s.argsort(descending=True, stable=True)[:rank]] = True
        return mask, energy

    def _prune(
        self, pruning: Pruning, name: str, layer: Tensors, buffers: Tensors, progress: Progress
    ) -> tuple[Tensors, Tensors]:
        """The layer with pruned columns zero and the others orthonormal; its mask, energy and feedback."""
        mask, energy = self._mask(pruning, layer["s"], buffers[f"{name}.energy"], progress)
        layer = {side: t * mask for side, t in layer.items()}
        layer |= {side: _orthonormal(layer[side], mask) for side in ("U", "V")}
        feedback = [key for side in COLUMNS if (key := f"{name}.feedback.{side}") in buffers]
        return layer, {f"{name}.mask": mask, f"{name}.energy": energy, **{key: buffers[key] * mask for key in feedback}}

    def entries(self, key: str, power: int = 1, rows: int = 1) -> Tensor | int:
        """The divisor of a penalty: with reduction `mean` its entries, rows times a power of the rank; otherwise 1."""
        if self.reduction == "sum":
            return 1
        layer = self.factored[key.rpartition(".")[0]]
        return rows * (len(layer.s) if self.pruning is None else layer.mask.sum()) ** power

    def _keys(self, sides: tuple[str, ...]) -> list[str]:
        return [f"{name}.{side}" for name in self.factored for side in sides]

    def _check_floor(self) -> None:
        for name in self.pruned:
            if self.rank is not None and (rank := len(self.factored[name].s)) < self.floor:
                raise UserError(
                    f"{name} has rank {rank}, less than pruning.floor, which is {self.floor}: lower pruning.floor"
                )


def _orthonormal(factor: Tensor, mask: Tensor) -> Tensor:
    result = torch.zeros_like(factor)
    result[:, mask] = qr_retraction(factor[:, mask])
    return result


def _check(rank: int | float | None, orthogonality: float, orthogonality_every: int, retract_every: int) -> None:
    if rank is not None and (rank <= 0 or (isinstance(rank, float) and rank > 1)):
        raise UserError(f"rank is a number of at least 1, a share of the full rank in 0 to 1, or null, not {rank}")
    if orthogonality < 0:
        raise UserError(f"orthogonality is a factor of at least 0, not {orthogonality}")
    if orthogonality_every < 1 or retract_every < 1:
        raise UserError("orthogonality_every and retract_every are numbers of steps, at least 1")
