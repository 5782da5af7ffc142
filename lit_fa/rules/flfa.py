r"""FLFA: "the global weights of the round carry the error back in every client" (2512.12762).

Federated learning with feedback alignment: with $W^r$ the weights that all clients receive at the start of round r,

$\delta_{l-1} = (\delta_l B_l) \odot \phi'(z_{l-1})$, $\quad B_l[j] = W^r_l[j]\, \|W_l[j]\|_2 / \|W^r_l[j]\|_2$

for each row j of a few layers l; everything else is backprop, and what a client sends and receives stays the same. It
is feedback alignment through a snapshot (`layers.SnapshotFeedback`) under any federated algorithm. In a round's first
local step B is W and the update is backprop's.

Which layers: named, those of the authors' code, or chosen from the clients' gradients $g_{i,l}$ on all their data at
$W^0$, by $S_l = \mathrm{mean}_{i<j} \cos(g_{i,l}, g_{j,l})$ over all layers but the first. The paper's statistic could
not be read; this one is ours.
"""

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.credit import Backend
from lit_fa.functional.feedback import Rescale, named_generator
from lit_fa.layers.coverage import Coverage
from lit_fa.layers.feedback import feedback_layers, switch_off, switch_on
from lit_fa.layers.sources import FeedbackSource, SharedRandomFeedback, SnapshotFeedback
from lit_fa.layers.stages import last_of_stages
from lit_fa.rules.base import Criterion, Does, Uncovered, provided
from lit_fa.rules.comparing import ComparesClients, PrivateComparison
from lit_fa.rules.feedback_alignment import FeedbackAlignment, carriers


class FLFA(ComparesClients, FeedbackAlignment):
    """Clients send the error back through the weights they all received.

    Args:
        layers: names or patterns; `official`: the last convolution of each stage and the head, as in the authors'
            code; `lowest:k` or `highest:k`: the k layers in which the clients' gradients agree least or most, chosen
            before round zero (FederatedClassifier alone); None: all but the first.
        feedback: `snapshot`, or for the ablation `random` (one B for all rounds) or `redrawn` (one a round).
        rescale: `row` (the authors' code), `matrix` or `none`.
        reselect_every: choose again before every so many rounds; 0: once.
        private: choose from clipped and noised gradients.
        seed: of random feedback.
        backend: `fused` or `detour`, see `lit_fa.layers.feedback`.
        uncovered: see `FeedbackAlignment`.
    """

    paper: ClassVar[str] = "Federated Learning with Feedback Alignment, arXiv:2512.12762"

    def __init__(
        self,
        layers: list[str] | str | None = "official",
        feedback: Literal["snapshot", "random", "redrawn"] = "snapshot",
        rescale: Rescale = "row",
        reselect_every: int = 0,
        private: PrivateComparison | None = None,
        seed: int = 0,
        backend: Backend = "fused",
        uncovered: Uncovered = "raise",
    ):
        """See the class."""
        check_literals(__class__, locals())
        super().__init__(_source(feedback, rescale, seed), layers, backend, uncovered)
        self.which, self.most = _selection(layers)
        self.reselect_every, self.private = reselect_every, private
        if reselect_every < 0:
            raise UserError(f"reselect_every is a number of rounds, or 0 for once, not {reselect_every}")
        if (reselect_every or private) and not self.which:
            raise UserError("reselect_every and private are of a choice: set layers: lowest:1 or the like")

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """As feedback alignment; layers are switched off until they are chosen."""
        found = super().install(network, example, criterion)
        if Does.COMPARES in self.does:
            self.switch(network, [])
        return found

    @provided(lambda rule: rule.which != "")
    def compares_before(self, number: int) -> bool:
        """Before round zero, and again every `reselect_every` rounds."""
        again = self.reselect_every and number % self.reselect_every == 0
        return self.which != "" and bool(number == 0 or again)

    def candidates(self, network: nn.Module) -> list[str]:
        """Every layer that an error travels through."""
        return [*feedback_layers(network, off=True)]

    def chosen(self, alike: dict[str, float]) -> list[str]:
        """The `most` layers of lowest or highest S_l; of equal ones the first."""
        order = sorted(alike, key=alike.__getitem__, reverse=self.which == "highest")
        return [name for name in alike if name in order[: self.most]]

    def switch(self, network: nn.Module, names: Sequence[str]) -> None:
        """Give feedback to these layers alone."""
        for name, layer in feedback_layers(network, off=True).items():
            if name not in names and not layer.feedback.off:
                switch_off(layer)
            elif name in names and layer.feedback.off:
                switch_on(layer, named_generator(self._seed, name))

    def _choose(self, network: nn.Module, example: Tensor) -> list[str]:
        if not isinstance(self.layers, str):
            return super()._choose(network, example)
        able = carriers(network, example)
        if not self.which:
            return [name for name in last_of_stages(network, example) if name in able]
        if self.most > len(able):
            raise UserError(f"layers: {self.layers}: an error travels through {len(able)} layers; choose among those")
        return able


def _source(feedback: str, rescale: str, seed: int) -> FeedbackSource:
    if feedback == "snapshot":
        return SnapshotFeedback(rescale)
    return SharedRandomFeedback(rescale=rescale, seed=seed, redraw="round" if feedback == "redrawn" else "never")


def _selection(layers: list[str] | str | None) -> tuple[str, int]:
    """(`lowest` or `highest`, k), or nothing where layers are not chosen."""
    if not isinstance(layers, str) or layers == "official":
        return "", 0
    found = re.fullmatch(r"(lowest|highest):([1-9]\d*)", layers)
    if not found:
        raise UserError(f"layers is a list of names, official, lowest:k or highest:k with k >= 1, not '{layers}'")
    return found[1], int(found[2])
