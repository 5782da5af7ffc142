r"""Rules that choose layers by comparing the gradients of clients, which takes a federation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lit_fa.errors import UserError


@dataclass(frozen=True)
class PrivateComparison:
    r"""Clients clip and noise what layers are chosen from: $\sum_x g_x \min(1, C/\|g_x\|) + \sigma C z$.

    Every image's gradient (of all compared layers together) is cut to the length C, and their sum gets Gaussian noise,
    as in DP-SGD (Abadi et al. 2016) on one batch of all the client has. Epsilon is per image of a client, against
    whoever sees the comparison; the training itself is not made private by it.

    Args:
        noise: sigma, the noise multiplier.
        clip: C.
        delta: at which epsilon is reported.
        seed: of the noise. Who knows it can take the noise away: it is for experiments that are to be repeated.
    """

    noise: float = 1.0
    clip: float = 1.0
    delta: float = 1e-5
    seed: int = 0

    def __post_init__(self):
        """Check."""
        if not (self.noise > 0 and self.clip > 0 and 0 < self.delta < 1):
            raise UserError(f"a private comparison needs noise > 0, clip > 0 and 0 < delta < 1, not {self}")


class ComparesClients(ABC):
    """What a learning rule has besides `LearningRule` if it chooses layers by comparing clients.

    `FederatedClassifier` compares the clients' gradients of the `candidates`, asks which layers are `chosen`, and lets
    the rule `switch` to those.

    Attributes:
        private: how the clients clip and noise their gradients; None: they do not.
    """

    private: PrivateComparison | None = None

    @abstractmethod
    def compares_before(self, number: int) -> bool:
        """Whether layers are chosen before round `number`."""

    @abstractmethod
    def candidates(self, network: nn.Module) -> list[str]:
        """Names of the layers that may be chosen."""

    @abstractmethod
    def chosen(self, alike: dict[str, float]) -> list[str]:
        """The layers to switch on, given the mean cosine S_l of each candidate's gradients."""

    @abstractmethod
    def switch(self, network: nn.Module, names: Sequence[str]) -> None:
        """Give feedback to these layers alone."""
