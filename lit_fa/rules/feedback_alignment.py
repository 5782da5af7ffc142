r"""Feedback alignment: "the weights of the backward pass need not be those of the forward pass".

Lillicrap, Cownden, Tweed & Akerman 2016: in backprop's recursion the transposed weight is replaced by a fixed random
matrix B of its shape, and everything else stays:

$\delta_{l-1} = (\delta_l B_l) \odot \phi'(z_{l-1})$, $\quad G_l = \delta_l^\top h_{l-1}$.

Where B comes from is the `source`: random (FA), the weight's sign (sign symmetry), the weight's own increments
(Kolen-Pollack), a mirror of the layer (weight mirror), a mixture, or a snapshot (FLFA). BatchNorm, LayerNorm, attention
and the loss keep their own derivative, as in every published implementation; biases are exact.
"""

import logging
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals, nearest
from lit_fa.functional.credit import Backend
from lit_fa.functional.feedback import named_generator
from lit_fa.layers.coverage import Coverage, whose
from lit_fa.layers.feedback import WEIGHT_LAYERS, FeedbackLayer, extend, feedback_layers
from lit_fa.layers.observing import observing, recording
from lit_fa.layers.sources import SOURCES, FeedbackSource
from lit_fa.layers.taps import match
from lit_fa.rules.base import Criterion, Halves, LearningRule, Progress, State, Uncovered, provided, refuse

log = logging.getLogger(__name__)


class FeedbackAlignment(LearningRule):
    """Send the error back through other matrices than the weights.

    Args:
        source: a `FeedbackSource`, or the short name of one with its defaults: random, sign, kolen_pollack,
            weight_mirror, adaptive, snapshot, shared_random.
        layers: names or patterns of the layers that get feedback; None: every linear and conv layer that an error
            travels through. The first layer's input needs no gradient, so it needs no feedback either.
        backend: `fused` or `detour`, see `lit_fa.layers.feedback`.
        uncovered: what to do about weights that still carry error by their own transpose, or get no gradient:
            `raise`, `warn` or `allow`. A choice of `layers` is a choice to leave the others: it is not refused.

    Raises:
        UserError: at `install`, naming tensors and remedy.

    >>> network, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 4)
    >>> _ = FeedbackAlignment().install(network, x, torch.nn.functional.cross_entropy)
    >>> [*feedback_layers(network)]
    ['2']
    """

    paper: ClassVar[str] = "Lillicrap et al. 2016, doi:10.1038/ncomms13276"

    def __init__(
        self,
        source: FeedbackSource | str = "random",
        layers: list[str] | None = None,
        backend: Backend = "fused",
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        super().__init__()
        if isinstance(source, str) and source not in SOURCES:
            raise UserError(f"unknown feedback source '{source}'; {nearest(source, [*SOURCES])}")
        check_literals(__class__, locals())
        self.source = SOURCES[source]() if isinstance(source, str) else source
        self.layers, self.backend, self.uncovered = layers, backend, uncovered
        self.extended: dict[str, FeedbackLayer] = {}  # not registered: they belong to the network

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Extend the layers, draw their feedback, check what is reached."""
        names = self._choose(network, example)
        self._check_weights(network, names)
        layers = {name: network.get_submodule(name) for name in names}
        for name, layer in layers.items():
            extend(layer, self.source, named_generator(self._seed, name), backend=self.backend)
        self.extended = layers
        found = self.inspect(network, example, criterion)
        if self.layers is None:
            remedy = whose(network, found.transported)
            refuse("error still travels by the own weights of", found.transported, remedy, uncovered=self.uncovered)
        refuse("no gradient reaches", found.unreached, "They take no part in the loss.", uncovered=self.uncovered)
        self._say(network)
        return found

    @provided(lambda rule: rule.source.evolves)
    def after_step(self, params: State, buffers: State, progress: Progress) -> tuple[State, State]:
        """Renew what evolves: mirror, mix, or redraw. The draw depends on seed, layer and step alone."""
        return Halves({}, {}), self._renewed(self.source.after_step, params, buffers, progress.step)

    def evolving(self, buffers: State) -> State:
        """The stored feedback of each layer that is switched on."""
        names = [f"{name}.feedback.weight" for name, layer in self.extended.items() if not layer.feedback.off]
        return Halves({name: buffers.network[name] for name in names if name in buffers.network}, {})

    def on_round_start(self, params: State, buffers: State, number: int) -> State:
        """Take a new snapshot, or draw anew, if the source is of that kind."""
        if not self.source.renews:
            return Halves({}, {})
        return self._renewed(self.source.on_round_start, params, buffers, "round", number)

    def _renewed(self, renew: Callable, params: State, buffers: State, *when: str | int) -> State:
        """What `renew(weight, stored, generator)` makes of the stored feedback of each layer that is switched on."""
        renewed = {}
        for name, layer in self.extended.items():
            stored = buffers.network.get(f"{name}.feedback.weight")
            if stored is not None and not layer.feedback.off:
                generator = named_generator(self._seed, f"network.{name}", *when)  # part of every published draw
                weight = params.network.get(f"{name}.weight", layer.weight)  # a client's parameters lack frozen ones
                renewed[f"{name}.feedback.weight"] = renew(weight, stored, generator)
        return Halves(renewed, {})

    @property
    def _seed(self) -> int:
        return getattr(self.source, "seed", 0)

    def _choose(self, network: nn.Module, example: Tensor) -> list[str]:
        if isinstance(network, WEIGHT_LAYERS):
            raise UserError("the network is one bare layer, which no error travels through: wrap it in nn.Sequential")
        if self.layers is None:
            return carriers(network, example)
        try:
            return match(self.layers, [n for n, m in network.named_modules() if n and isinstance(m, WEIGHT_LAYERS)])
        except ValueError as error:
            raise UserError(f"layers: {error}") from None

    def _check_weights(self, network: nn.Module, names: list[str]) -> None:
        """A source that follows a weight needs one of the layer's own."""
        if not (self.source.evolves or self.source.trained):
            return
        own = dict(network.named_parameters())
        weights = [network.get_submodule(name)._parameters.get("weight") for name in names]
        for name, weight in zip(names, weights, strict=True):
            if f"{name}.weight" not in own or sum(weight is other for other in weights) > 1:
                raise UserError(
                    f"{type(self.source).__name__} follows the weight of each layer, and that of {name} is shared "
                    "with another or made of other tensors: take source: random, or leave it out of layers"
                )

    def _say(self, network: nn.Module) -> None:
        layers: dict[str, FeedbackLayer] = feedback_layers(network)
        stored = sum(layer.feedback.weight.numel() for layer in layers.values() if layer.feedback.weight is not None)
        log.info("%s on %d layers, %.3g M stored feedback weights", self.source, len(layers), stored / 1e6)


def carriers(network: nn.Module, example: Tensor) -> list[str]:
    """Linear and conv layers that an error travels through: something is trained behind their input."""
    layers = [name for name, module in network.named_modules() if name and isinstance(module, WEIGHT_LAYERS)]
    with observing(network), torch.enable_grad(), recording(network, layers) as seen:
        network(example)
    needed = {call.name for call in seen if call.inputs[0].requires_grad}
    return [name for name in layers if name in needed]
