r"""SVD-space alignment: local losses on U, s, V of every layer, with factored feedback.

SSA, arXiv:2510.25594: "both the weights and the feedback are decomposed, and each layer minimises
$\mathcal L_i = \alpha\,\mathcal L_{CE} + \beta\,\mathcal L_{align} + \gamma\,\mathcal L_{ortho}$", with

$\mathcal L_{align} = \lVert U-B_U\rVert_F^2 + \lVert s-B_s\rVert^2 + \lVert V-B_V\rVert_F^2$,
$\mathcal L_{ortho} = \lVert U^\top U-I\rVert_F^2 + \lVert V^\top V-I\rVert_F^2$,

the gradient of CE from the global error, the updates projected on the Stiefel manifold, Hoyer's sparsity on s, and
pruning to 95 % of the energy. The slides do not say how an error of c classes is multiplied by a feedback of the
weight's shape (a, b). There are three readings, `route`:

* `direct_product`: $\delta_l = e\,D_l$ with $D_l = B_L B_{L-1}\cdots B_{l+1}$, fixed; through convolutions and pools it
  is the Jacobian of the network with feedback in place of weights (`layers.feedback_product`);
* `direct_random`: $\delta_l = e\,R_l$ with a random matrix (DFA); the factored feedback then only enters the alignment
  term;
* `sequential`: $\delta_{l-1} = (\delta_l B_l)\odot\phi'$, feedback alignment with factored feedback; no weights are
  transported, but the backward pass goes from layer to layer.

With direct routes there is a stop-gradient after every layer, so no gradient of a weight's size and no input gradient
across a block boundary is computed. The head has the exact error; alpha is the factor on CE for the other layers.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.feedback import Init, draw, named_generator
from lit_fa.functional.svd_factors import Factors, factorise
from lit_fa.layers.coverage import Coverage, whose
from lit_fa.layers.factored import FactoredLayer, FeedbackFactors, Products
from lit_fa.layers.feedback_product import feedback_jacobians
from lit_fa.layers.taps import Blocks, block_name
from lit_fa.rules.base import (
    UNUSED,
    Backward,
    Batch,
    Criterion,
    Halves,
    Progress,
    Surrogate,
    Tensors,
    Uncovered,
    provided,
    refuse,
)
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment, Shape
from lit_fa.rules.rank_schedule import Hoyer, Pruning
from lit_fa.rules.svd_backprop import Reduction, Retraction, SVDBackprop

log = logging.getLogger(__name__)
Schedule = Literal["constant", "linear", "cosine"]
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


class SVDSpaceAlignment(SVDBackprop):
    """Train the factors of every layer by local losses.

    Args:
        route: how the error reaches a layer, see above.
        alpha: factor on CE for all layers except the head.
        beta: factor on the alignment term.
        beta_schedule: of beta during training: `constant`, or to zero, `linear` or `cosine`.
        gamma: factor on the orthogonality term.
        feedback: `independent`: the factors of a weight drawn from `init`; `copy`: those of the initial weight.
        init: of the feedback, also that of `direct_random`; see `functional.feedback.draw`.
        shape: of the matrices of `direct_random` for maps: `dense`, `per_channel` or `shared`.
        scale: factor on the direct feedback matrices.
        blocks: the block boundaries of direct routes; see `layers.taps.find_blocks`. Inside a block of several layers
            error passes through their feedback.
        seed: of all feedback; that of a layer depends only on the seed and the layer's name.
        rank, orthogonality_every, retraction, retract_every, project, hoyer, pruning: see `SVDBackprop`.
        reduction, dense, uncovered, products: see `SVDBackprop`.

    >>> import torch
    >>> network, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 4)
    >>> rule = SVDSpaceAlignment(route="sequential", rank=2)
    >>> _ = rule.install(network, x, nn.functional.cross_entropy)
    >>> network[2].feedback.factors.U.shape  # feedback has factors too
    torch.Size([2, 2])
    """

    paper: ClassVar[str] = "SSA, arXiv:2510.25594"

    def __init__(
        self,
        route: Literal["direct_product", "direct_random", "sequential"] = "direct_random",
        alpha: float = 1.0,
        beta: float = 1e-3,
        beta_schedule: Schedule = "constant",
        gamma: float = 1.0,
        feedback: Literal["independent", "copy"] = "independent",
        init: Init = "kaiming_normal",
        shape: Shape = "dense",
        scale: float = 1.0,
        blocks: Blocks = "layer",
        seed: int = 0,
        rank: int | float | None = None,
        orthogonality_every: int = 1,
        retraction: Retraction = "newton_schulz",
        retract_every: int = 1,
        project: bool = True,
        hoyer: Hoyer | None = None,
        pruning: Pruning | None = None,
        reduction: Reduction = "mean",
        dense: list[str] | Literal["unfactorable"] | None = None,
        uncovered: Uncovered = "raise",
        products: Products = "factors",
    ):
        """See the class."""
        super().__init__(
            rank=rank,
            orthogonality=gamma,
            orthogonality_every=orthogonality_every,
            retraction=retraction,
            retract_every=retract_every,
            project=project,
            hoyer=hoyer,
            pruning=pruning,
            reduction=reduction,
            dense=dense,
            uncovered=uncovered,
            products=products,
        )
        check_literals(SVDSpaceAlignment, locals())
        if alpha < 0 or beta < 0:
            raise UserError(f"alpha and beta are factors of at least 0, not {alpha} and {beta}")
        self.route, self.alpha, self.beta, self.beta_schedule = route, alpha, beta, beta_schedule
        self.feedback, self.init, self.seed = feedback, init, seed
        self.direct: DirectFeedbackAlignment | None = None
        if route != "sequential":
            self.direct = DirectFeedbackAlignment(
                shape=shape, blocks=blocks, init=init, scale=scale, seed=seed, uncovered=uncovered
            )

    @property
    def follows_length(self) -> list[str]:
        """Those of `SVDBackprop`, and the schedule of beta."""
        falls = self.beta > 0 and self.beta_schedule != "constant"
        return [*super().follows_length, *([f"beta_schedule: {self.beta_schedule}"] if falls else [])]

    def parts(self, network: nn.Module, example: Tensor) -> Halves[int]:
        """With direct routes every block has its own loss."""
        owners = {} if self.direct is None else self.direct.taps.owners(network, lambda: network(example))
        return Halves(owners, {})

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Factor the layers and draw their feedback; with direct routes also the direct feedback matrices."""
        self.factor(network, example)
        for name, layer in self.factored.items():
            layer.feedback = FeedbackFactors(self._feedback(name, layer)).to(layer.s.device)
            layer.transport = "feedback"
        if self.direct is not None:
            self.direct.install(network, example, criterion)
            if self.route == "direct_product":
                _set_products(self.direct, network, example)
        untreated = self.inspect(network, example, criterion)
        own = {f"{name}.{kind}" for name in [*self.factored, *self.dense_layers] for kind in ("U", "s", "weight")}
        dense = [name for name in untreated.transported if name not in own]
        refuse("error still passes through the weights", dense, whose(network, dense), uncovered=self.uncovered)
        refuse("no gradient reaches", untreated.unreached, UNUSED, uncovered=self.uncovered)
        return untreated

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """CE by the route; `edit_gradients` adds alignment, orthogonality and sparsity."""
        if self.direct is None:
            return super().surrogate(network, batch, criterion)
        return self.direct.surrogate(network, batch, criterion)

    @provided(lambda rule: rule.direct is not None)
    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Backward) -> Surrogate:
        """As `surrogate`, block by block."""
        if self.direct is None:
            return super().stream(network, batch, criterion, backward)
        return self.direct.stream(network, batch, criterion, backward)

    def pulled(self, key: str, params: Tensors, grads: Tensors, progress: Progress) -> Tensor:
        r"""$\alpha\,\nabla\mathcal L_{CE} + 2\beta\,(U - B_U)$, the second over the unpruned entries."""
        name, side = key.rsplit(".", 1)
        grad = grads[key] if self.alpha == 1.0 or name == [*self.factored][-1] else self.alpha * grads[key]
        beta = self.beta * SCHEDULES[self.beta_schedule](progress.fraction)
        if not beta:
            return grad
        difference = params[key] - getattr(self.factored[name].feedback, side)
        return grad + difference * (2 * beta / self.entries(key, rows=len(difference) if side != "s" else 1))

    @property
    def links(self) -> Mapping[str, Tensor]:
        """The direct feedback matrices of direct routes."""
        return {} if self.direct is None else self.direct.links

    @property
    def cuts(self) -> list[str]:
        """The block boundaries of direct routes."""
        return [] if self.direct is None else self.direct.cuts

    def _feedback(self, name: str, layer: FactoredLayer) -> Factors:
        if self.feedback == "copy":
            return Factors(*(t.detach().clone() for t in layer.factors))
        weight = draw(layer.shape, self.init, named_generator(self.seed, name)).to(layer.s.dtype)
        return factorise(weight, len(layer.s))


def _set_products(direct: DirectFeedbackAlignment, network: nn.Module, example: Tensor) -> None:
    """Replace the direct feedback matrices by the products of the feedback above each block."""
    keys = {block_name(key): key for key in direct.feedback}
    try:
        products = feedback_jacobians(network, example, [*keys])
    except ValueError as error:
        raise UserError(f"direct_product: {error}; set route: direct_random or sequential") from None
    for name, product in products.items():
        direct.feedback[keys[name]].weight = direct.scale * product
