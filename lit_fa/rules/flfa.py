r"""FLFA, federated learning with feedback alignment: clients use the global weights in the backward pass (2512.12762).

With $W^r$ the weights that all clients receive at the start of round r,

$\delta_{l-1} = (\delta_l B_l) \odot \phi'(z_{l-1})$, $\quad B_l[j] = W^r_l[j]\, \|W_l[j]\|_2 / \|W^r_l[j]\|_2$

for each row j of a few layers l. All other layers use backprop, and clients send and receive the same tensors as
without FLFA. It is feedback alignment from a snapshot (`layers.SnapshotFeedback`) with any federated algorithm. In the
first local step of a round B is W, and the update is backprop's.

The layers are named, those of the authors' code, or chosen by the clients' gradients $g_{i,l}$ on all their data at
$W^0$: by $S_l = \mathrm{mean}_{i<j} \cos(g_{i,l}, g_{j,l})$ over all layers except the first. The paper's statistic
could not be read; this one is ours.
"""

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from lit_fa.errors import UserError, check_literals
from lit_fa.functional.credit import Backend
from lit_fa.functional.feedback import Rescale, named_generator
from lit_fa.layers.coverage import Coverage, error_carrying_layers
from lit_fa.layers.feedback import feedback_layers, switch_off, switch_on
from lit_fa.layers.sources import FeedbackSource, SharedRandomFeedback, SnapshotFeedback
from lit_fa.layers.stages import last_of_stages
from lit_fa.rules.base import Criterion, Does, Uncovered, provided
from lit_fa.rules.comparing import ComparesClients, PrivateComparison
from lit_fa.rules.feedback_alignment import FeedbackAlignment


class FLFA(ComparesClients, FeedbackAlignment):
    """Feedback alignment whose backward matrices are the weights that the clients received from the server.

    Args:
        layers: names or patterns; `official`: the last convolution of each stage and the head, as in the authors'
            code; `lowest:k` or `highest:k`: the k layers in which the clients' gradients agree least or most, chosen
            before round 0 (only with `FederatedClassifier`); None: all except the first.
        feedback: `snapshot`, or for the ablation `random` (one B for all rounds) or `redrawn` (one B per round).
        rescale: `row` (the authors' code), `matrix` or `none`.
        reselect_every: number of rounds after which layers are chosen again; 0: never.
        private: clip and noise the gradients by which layers are chosen.
        seed: of random feedback.
        backend: `fused` or `detour`, see `lit_fa.layers.feedback`.
        uncovered: see `FeedbackAlignment`.

    Raises:
        UserError: an invalid option.

    >>> import torch
    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = FLFA(layers=None).install(network, torch.zeros(2, 4), nn.functional.cross_entropy)
    >>> torch.equal(network[2].feedback.weight, network[2].weight)  # a copy of the weights
    True
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
        check_literals(FLFA, locals())
        super().__init__(_source(feedback, rescale, seed), None, backend, uncovered)
        self.layers = layers
        self.which, self.most = _selection(layers)
        self.reselect_every, self.private = reselect_every, private
        if reselect_every < 0:
            raise UserError(f"reselect_every is a number of rounds of at least 0, not {reselect_every}")
        if (reselect_every or private) and not self.which:
            raise UserError("reselect_every and private need a choice of layers: set layers: lowest:k or highest:k")

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """As `FeedbackAlignment.install`; if layers are chosen later, all are switched off."""
        untreated = super().install(network, example, criterion)
        if Does.COMPARES in self.does:
            self.switch(network, [])
        return untreated

    @provided(lambda rule: rule.which != "")
    def compares_before(self, number: int) -> bool:
        """Whether it is round 0 or, with `reselect_every`, a multiple of it."""
        again = self.reselect_every and number % self.reselect_every == 0
        return self.which != "" and bool(number == 0 or again)

    def candidates(self, network: nn.Module) -> list[str]:
        """Every layer through which error passes."""
        return [*feedback_layers(network, off=True)]

    def chosen(self, alike: dict[str, float]) -> list[str]:
        """The `most` layers with the lowest or highest S_l; of equal layers the first."""
        order = sorted(alike, key=alike.__getitem__, reverse=self.which == "highest")
        return [name for name in alike if name in order[: self.most]]

    def switch(self, network: nn.Module, names: Sequence[str]) -> None:
        """Give feedback to these layers only."""
        for name, layer in feedback_layers(network, off=True).items():
            if name not in names and not layer.feedback.off:
                switch_off(layer)
            elif name in names and layer.feedback.off:
                switch_on(layer, named_generator(self._seed, name))

    def _choose(self, network: nn.Module, example: Tensor) -> list[str]:
        if not isinstance(self.layers, str):
            return super()._choose(network, example)
        carrying = error_carrying_layers(network, example)
        if not self.which:
            return [name for name in last_of_stages(network, example) if name in carrying]
        if self.most > len(carrying):
            raise UserError(f"layers: {self.layers}: error passes through {len(carrying)} layers; set a smaller number")
        return carrying


def _source(feedback: str, rescale: Rescale, seed: int) -> FeedbackSource:
    if feedback == "snapshot":
        return SnapshotFeedback(rescale)
    return SharedRandomFeedback(rescale=rescale, seed=seed, redraw="round" if feedback == "redrawn" else "never")


def _selection(layers: list[str] | str | None) -> tuple[str, int]:
    """(`lowest` or `highest`, k), or ("", 0) if layers are not chosen."""
    if not isinstance(layers, str) or layers == "official":
        return "", 0
    choice = re.fullmatch(r"(lowest|highest):([1-9]\d*)", layers)
    if not choice:
        raise UserError(f"layers is a list of names, official, lowest:k or highest:k with k >= 1, not '{layers}'")
    return choice[1], int(choice[2])
