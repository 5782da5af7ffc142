r"""MOON: a contrastive loss pulls a client's representation to the server's and away from its previous one.

Li, He and Song 2021, arXiv:2103.16257: with z, z_glob, z_prev the representations of the local, the server's and the
client's previous model, the penalty is
$\mu \cdot -\log \frac{e^{\cos(z, z_{glob})/T}}{e^{\cos(z, z_{glob})/T} + e^{\cos(z, z_{prev})/T}}$, averaged over
the batch. The paper adds a projection head; FLFA's code, as here, takes the pooled penultimate layer.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from lit_fa.federated.algorithms.base import FederatedAlgorithm, positive
from lit_fa.rules.base import Tensors


@dataclass(frozen=True)
class Moon(FederatedAlgorithm):
    """mu, temperature: 0.1 and 0.5 in FLFA's code; the paper tunes mu in 0.1, 1, 5, 10 and has T = 0.5.

    The state of a client is its parameters; in its first round those of the server.
    """

    paper: ClassVar[str] = "Li et al. 2021, arXiv:2103.16257"
    stateful: ClassVar[bool] = True
    wants_features: ClassVar[bool] = True
    mu: float = 0.1
    temperature: float = 0.5

    def __post_init__(self) -> None:
        """Refuse negative values, and a temperature of zero, which is a divisor."""
        positive("Moon: mu", self.mu)
        positive("Moon: temperature", self.temperature, zero=False)

    def initial_state(self, anchor: Tensors) -> Tensors:
        """The server's parameters."""
        return dict(anchor)

    def penalty(self, features: Tensor, of_server: Tensor | None, of_previous: Tensor | None) -> Tensor:
        """mu times the contrastive loss, mean over the batch."""
        assert of_server is not None
        assert of_previous is not None
        near = F.cosine_similarity(features, of_server, dim=-1) / self.temperature
        far = F.cosine_similarity(features, of_previous, dim=-1) / self.temperature
        return -self.mu * F.logsigmoid(near - far).mean()

    def new_state(
        self, params: Tensors, anchor: Tensors, state: Tensors, server: Tensors, steps: int | Tensor, lr: float
    ) -> Tensors:
        """w_i."""
        return dict(params)
