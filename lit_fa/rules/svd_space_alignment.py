r"""SVD-space alignment: local losses on U, s, V of every layer, with feedback of the same structure.

SSA, arXiv:2510.25594: "both the weights and the feedback are decomposed, and each layer minimises
$\mathcal L_i = \alpha\,\mathcal L_{CE} + \beta\,\mathcal L_{align} + \gamma\,\mathcal L_{ortho}$", with

$\mathcal L_{align} = \lVert U-B_U\rVert_F^2 + \lVert s-B_s\rVert^2 + \lVert V-B_V\rVert_F^2$,
$\mathcal L_{ortho} = \lVert U^\top U-I\rVert_F^2 + \lVert V^\top V-I\rVert_F^2$,

the gradient of CE coming from the global error, the updates projected on the Stiefel manifold, Hoyer's sparsity on s
and pruning to 95 % of the energy. How an error of c classes meets a feedback of the weight's shape (a, b) the slides do
not say; three readings, `route`:

* `direct_product`: $\delta_l = e\,D_l$ with $D_l = B_L B_{L-1}\cdots B_{l+1}$, fixed; through convolutions and pools it
  is the Jacobian of the network that the feedback makes (`layers.linearised`);
* `direct_random`: $\delta_l = e\,R_l$, a matrix of its own (DFA); the factored feedback is then only what U, s, V are
  pulled to;
* `sequential`: $\delta_{l-1} = (\delta_l B_l)\odot\phi'$, feedback alignment with factored feedback; no layer waits for
  weights to be transported, but layers wait for each other.

With direct routes the network is cut behind every layer, so the gradient of a weight's size is never formed, nor any
input gradient across a cut. The head has the exact error; alpha weighs the CE of the factors before it.
"""

import logging
import math
from collections.abc import Callable
from typing import ClassVar, Literal

from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.feedback import Init, draw, named_generator
from lit_fa.functional.svd_factors import factorise
from lit_fa.layers.coverage import Coverage, whose
from lit_fa.layers.factored import FactoredLayer, FeedbackFactors
from lit_fa.layers.feedback_product import feedback_jacobians
from lit_fa.layers.taps import Blocks, block_name
from lit_fa.rules.base import Batch, Criterion, Halves, Progress, Surrogate, Tensors, Uncovered, provided, refuse
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
        alpha: factor on CE for all factors but the head's.
        beta: factor on the alignment term.
        beta_schedule: of beta over training: `constant`, or to zero, `linear` or `cosine`.
        gamma: factor on the orthogonality term.
        feedback: `independent`: the factors of a weight drawn from `init`; `copy`: those of the initial weight.
        init: how feedback is drawn, `direct_random`'s too; see `functional.feedback.draw`.
        shape: of `direct_random`'s matrices for maps: `dense`, `per_channel` or `shared`.
        scale: factor on what the direct routes send.
        blocks: where direct routes cut; see `layers.taps.find_blocks`. Inside a block of several layers the error goes
            back through their feedback.
        seed: of all feedback; every layer's depends on the seed and its name alone.
        rank, orthogonality_every, retraction, retract_every, project, hoyer, pruning, reduction, dense, uncovered: see
            `SVDBackprop`.
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
    ):
        """See the class."""
        super().__init__(
            rank, gamma, orthogonality_every, retraction, retract_every, project, hoyer, pruning, reduction, dense,
            uncovered,
        )  # fmt: skip
        check_literals(__class__, locals())
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
        """Also how fast beta falls."""
        falls = self.beta > 0 and self.beta_schedule != "constant"
        return [*super().follows_length, *([f"beta_schedule: {self.beta_schedule}"] if falls else [])]

    def parts(self, network: nn.Module, example: Tensor) -> Halves[int]:
        """On the direct routes every block has its own loss."""
        owners = {} if self.direct is None else self.direct.taps.owners(network, lambda: network(example))
        return Halves(owners, {})

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Factor the layers, draw their feedback, cut and link where the route is direct."""
        self.factor(network, example)
        for name, layer in self.held.items():
            layer.feedback = FeedbackFactors(self._feedback(name, layer)).to(layer.s.device)
            layer.transport = "feedback"
        if self.direct is not None:
            self.direct.install(network, example, criterion)
        if self.route == "direct_product":
            self._multiply(network, example)
        found = self.inspect(network, example, criterion)
        own = {f"{name}.{kind}" for name in [*self.held, *self.dense_layers] for kind in ("U", "s", "weight")}
        dense = [name for name in found.transported if name not in own]
        remedy = whose(network, dense)
        refuse("error still travels by the own weights of", dense, remedy, uncovered=self.uncovered)
        refuse("no gradient reaches", found.unreached, "They take no part in the loss.", uncovered=self.uncovered)
        return found

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """CE by the route; alignment, orthogonality and sparsity follow in `edit_gradients`."""
        return (super() if self.direct is None else self.direct).surrogate(network, batch, criterion)

    @provided(lambda rule: rule.direct is not None)
    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Callable) -> Surrogate:
        """The same block by block."""
        return (super() if self.direct is None else self.direct).stream(network, batch, criterion, backward)

    def pulled(self, key: str, params: Tensors, grads: Tensors, progress: Progress) -> Tensor:
        r"""$\alpha\,\nabla\mathcal L_{CE} + 2\beta\,(U - B_U)$ over the entries that are not pruned."""
        name, side = key.rsplit(".", 1)
        grad = grads[key] if self.alpha == 1.0 or name == [*self.held][-1] else self.alpha * grads[key]
        beta = self.beta * SCHEDULES[self.beta_schedule](progress.fraction)
        if not beta:
            return grad
        difference = params[key] - getattr(self.held[name].feedback, side)
        return grad + difference * (2 * beta / self.entries(key, rows=len(difference) if side != "s" else 1))

    @property
    def links(self) -> Tensors:
        """Of the direct routes."""
        return {} if self.direct is None else self.direct.links

    @property
    def cuts(self) -> list[str]:
        """Of the direct routes."""
        return [] if self.direct is None else self.direct.cuts

    def _feedback(self, name: str, layer: FactoredLayer):
        if self.feedback == "copy":
            return type(layer.factors)(*(t.detach().clone() for t in layer.factors))
        weight = draw(layer.shape, self.init, named_generator(self.seed, name)).to(layer.s.dtype)
        return factorise(weight, len(layer.s))

    def _multiply(self, network: nn.Module, example: Tensor) -> None:
        keys = {block_name(key): key for key in self.direct.feedback}
        try:
            products = feedback_jacobians(network, example, [*keys])
        except ValueError as error:
            raise UserError(f"direct_product: {error}; take route: direct_random or sequential") from None
        for name, product in products.items():
            self.direct.feedback[keys[name]].weight = self.direct.scale * product
