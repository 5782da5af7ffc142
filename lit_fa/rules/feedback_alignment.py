r"""Feedback alignment: "the weights of the backward pass need not be those of the forward pass".

Lillicrap, Cownden, Tweed & Akerman 2016: in backprop's recursion the transposed weight is replaced by a fixed random
matrix B of its shape, and everything else stays:

$\delta_{l-1} = (\delta_l B_l) \odot \phi'(z_{l-1})$, $\quad G_l = \delta_l^\top h_{l-1}$.

The `source` of B: random (FA), the sign of the weight (sign symmetry), the increments of the weight (Kolen-Pollack),
the layer's response to noise (weight mirror), a mixture, or a snapshot (FLFA). BatchNorm, LayerNorm, attention and the
loss keep their own derivative, as in every published implementation; biases are exact.
"""

import logging
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.credit import Backend
from lit_fa.functional.feedback import named_generator
from lit_fa.layers.coverage import Coverage, error_carrying_layers, whose
from lit_fa.layers.feedback import (
    WEIGHT_LAYERS,
    FeedbackLayer,
    apply_feedback_alignment,
    feedback_layers,
)
from lit_fa.layers.sources import SOURCES, FeedbackSource, SourceName
from lit_fa.layers.taps import match
from lit_fa.rules.base import UNUSED, Criterion, Halves, LearningRule, Progress, State, Uncovered, provided, refuse

log = logging.getLogger(__name__)


class FeedbackAlignment(LearningRule):
    """Backpropagation with other matrices than the weights in the backward pass.

    Args:
        source: a `FeedbackSource`, or the short name of one with its defaults: random, sign, kolen_pollack,
            weight_mirror, adaptive, snapshot, shared_random.
        layers: names or patterns of the layers that receive feedback; None: every linear and conv layer through which
            error passes. The input of the first layer needs no gradient, so that layer needs no feedback.
        backend: `fused` or `detour`, see `lit_fa.layers.feedback`.
        uncovered: what to do about weights whose own transpose carries error, or that receive no gradient: `raise`,
            `warn` or `allow`. If `layers` are named, error may pass through the weights of the others.

    Raises:
        UserError: at `install`, with the names of the tensors and the remedy.

    >>> import torch
    >>> network, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 4)
    >>> _ = FeedbackAlignment().install(network, x, torch.nn.functional.cross_entropy)
    >>> [*feedback_layers(network)]
    ['2']
    """

    paper: ClassVar[str] = "Lillicrap et al. 2016, doi:10.1038/ncomms13276"

    def __init__(
        self,
        source: FeedbackSource | SourceName = "random",
        layers: list[str] | None = None,
        backend: Backend = "fused",
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        super().__init__()
        check_literals(FeedbackAlignment, locals())
        self.source = SOURCES[source]() if isinstance(source, str) else source
        self.backend, self.uncovered = backend, uncovered
        self.layers: list[str] | str | None = layers
        self.extended: dict[str, FeedbackLayer] = {}  # not registered, because they belong to the network

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Extend the layers, draw their feedback, and check the coverage."""
        names = self._choose(network, example)
        self._check_weights(network, names)
        self.extended = apply_feedback_alignment(network, self.source, names, backend=self.backend)
        untreated = self.inspect(network, example, criterion)
        if self.layers is None:
            remedy = whose(network, untreated.transported)
            refuse("error still passes through the weights", untreated.transported, remedy, uncovered=self.uncovered)
        refuse("no gradient reaches", untreated.unreached, UNUSED, uncovered=self.uncovered)
        self._log(network)
        return untreated

    @provided(lambda rule: rule.source.evolves)
    def after_step(self, params: State, buffers: State, progress: Progress) -> tuple[State, State]:
        """Renew the stored feedback: mirror, mix, or redraw. The draw depends only on seed, layer and step."""
        return Halves({}, {}), self._renewed(self.source.after_step, params, buffers, progress.step)

    def evolving(self, buffers: State) -> State:
        """The stored feedback of each layer that is switched on."""
        names = [f"{name}.feedback.weight" for name, layer in self.extended.items() if not layer.feedback.off]
        return Halves({name: buffers.network[name] for name in names if name in buffers.network}, {})

    def on_round_start(self, params: State, buffers: State, number: int) -> State:
        """Renew the stored feedback if the source does so: a new snapshot, or a new draw."""
        if not self.source.renews:
            return Halves({}, {})
        return self._renewed(self.source.on_round_start, params, buffers, "round", number)

    def _renewed(self, renew: Callable[..., Tensor], params: State, buffers: State, *when: str | int) -> State:
        """The results of `renew(weight, stored, generator)` for each layer that is switched on."""
        renewed = {}
        for name, layer in self.extended.items():
            stored = buffers.network.get(f"{name}.feedback.weight")
            if stored is not None and not layer.feedback.off:
                generator = named_generator(self._seed, f"network.{name}", *when)  # as in the committed results
                weight = params.network.get(f"{name}.weight", layer.weight)  # a client's parameters lack frozen ones
                renewed[f"{name}.feedback.weight"] = renew(weight, stored, generator)
        return Halves(renewed, {})

    @property
    def _seed(self) -> int:
        return getattr(self.source, "seed", 0)

    def _choose(self, network: nn.Module, example: Tensor) -> list[str]:
        if isinstance(network, WEIGHT_LAYERS):
            raise UserError("the network is a single layer, through which no error passes: wrap it in nn.Sequential")
        if self.layers is None or isinstance(self.layers, str):
            return error_carrying_layers(network, example)
        try:
            return match(self.layers, [n for n, m in network.named_modules() if n and isinstance(m, WEIGHT_LAYERS)])
        except ValueError as error:
            raise UserError(f"layers: {error}") from None

    def _check_weights(self, network: nn.Module, names: list[str]) -> None:
        """Check that each layer has a weight of its own, if the source updates the feedback from the weight."""
        if not (self.source.evolves or self.source.trained):
            return
        own = dict(network.named_parameters())
        weights = [network.get_submodule(name)._parameters.get("weight") for name in names]
        for name, weight in zip(names, weights, strict=True):
            if f"{name}.weight" not in own or sum(weight is other for other in weights) > 1:
                raise UserError(
                    f"{type(self.source).__name__} follows the weight of each layer, and that of {name} is shared "
                    "with another or computed from other tensors: set source: random, or leave it out of layers"
                )

    def _log(self, network: nn.Module) -> None:
        layers = feedback_layers(network)
        stored = sum(layer.feedback.weight.numel() for layer in layers.values() if layer.feedback.weight is not None)
        log.info("%s on %d layers, %.3g M stored feedback weights", self.source, len(layers), stored / 1e6)
