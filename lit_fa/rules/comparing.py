"""Rules that choose layers by comparing the gradients of clients, in federated training."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lit_fa.errors import UserError


@dataclass(frozen=True)
class PrivateComparison:
    r"""Clients clip and noise the gradients that are compared: $\sum_x g_x \min(1, C/\|g_x\|) + \sigma C z$.

    The gradient of each image (of all compared layers together) is clipped to the norm C, and Gaussian noise is added
    to their sum, as in DP-SGD (Abadi et al. 2016) on one batch of all data of the client. Epsilon holds per image of a
    client, against anyone who sees the comparison. The training itself is not private.

    Args:
        noise: sigma, the noise multiplier.
        clip: C.
        delta: for which epsilon is reported.
        seed: of the noise, so that experiments can be repeated. Who knows it can subtract the noise.

    Raises:
        UserError: noise or clip not above 0, or delta not between 0 and 1.
    """

    noise: float = 1.0
    clip: float = 1.0
    delta: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.noise > 0 and self.clip > 0 and 0 < self.delta < 1):
            raise UserError(f"a private comparison needs noise > 0, clip > 0 and 0 < delta < 1, not {self}")


class ComparesClients(ABC):
    """The additional methods of a learning rule that chooses layers by comparing clients.

    `FederatedClassifier` compares the clients' gradients of the `candidates`, calls `chosen`, and calls `switch` with
    the result.

    Attributes:
        private: how the clients clip and noise their gradients; None: not at all.
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
        """The layers to switch on; `alike`: candidate to the mean cosine S_l of its gradients."""

    @abstractmethod
    def switch(self, network: nn.Module, names: Sequence[str]) -> None:
        """Give feedback to these layers only."""
