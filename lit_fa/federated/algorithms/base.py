"""What a federated algorithm adds to local training and to averaging; the base class adds nothing, as FedAvg.

Legend: w_0 the server's parameters (anchor), w_i a client's, p_i = n_i / n its share of the round's samples, tau_i its
local steps. Gradients, parameters and client states may have a leading dimension of clients, (k, ...); the server's
tensors never have.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_fa.errors import UserError
from lit_fa.federated.local_optimizers import LocalOptimizer
from lit_fa.rules.base import Tensors


class FederatedAlgorithm:
    """Base class. All methods are pure, except `correct`, which changes gradients in place.

    Class attributes:
        paper: citation.
        stateful: a client has tensors that are stored from round to round.
        has_server_state: the server stores the mean over ALL clients of their states, zero at first.
        wants_features: `penalty` is added to the loss, and needs the penultimate representation.
        corrects: whether the class overrides `correct`.
    """

    paper: ClassVar[str] = ""
    stateful: ClassVar[bool] = False
    has_server_state: ClassVar[bool] = False
    wants_features: ClassVar[bool] = False
    corrects: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """See `corrects`."""
        cls.corrects = cls.correct is not FederatedAlgorithm.correct

    def check(self, optimizer: LocalOptimizer) -> None:
        """Refuse a local optimiser for which the algorithm's formula does not hold.

        Raises:
            UserError: it does not hold.
        """

    def client_weights(self, sizes: Sequence[int], steps: Sequence[int], optimizer: LocalOptimizer) -> Tensor:
        """(k,) float64: the coefficient of each client's update w_0 - w_i in the server's gradient."""
        n = torch.tensor(sizes, dtype=torch.float64)
        return n / n.sum()

    def initial_state(self, anchor: Tensors) -> Tensors:
        """The state of a client that is sampled for the first time."""
        return {}

    def correct(self, grads: Tensors, params: Tensors, anchor: Tensors, state: Tensors, server: Tensors) -> None:
        """Add the algorithm's terms to the local gradients, in place."""

    def penalty(self, features: Tensor, of_server: Tensor | None, of_previous: Tensor | None) -> Tensor:
        """A scalar function of the representation (b, d), added to the surrogate of the rule."""
        raise NotImplementedError

    def new_state(
        self, params: Tensors, anchor: Tensors, state: Tensors, server: Tensors, steps: int | Tensor, lr: float
    ) -> Tensors:
        """The state of a client after its last step. steps: taken by it, or (k,)."""
        return {}

    def server_gradient(self, update: Tensors, server: Tensors) -> Tensors:
        """The server's gradient, from the weighted sum of updates w_0 - w_i; server: its new state."""
        return update


def equal_weights(clients: int) -> Tensor:
    """(k,) float64: the same weight for all clients."""
    return torch.full((clients,), 1 / clients, dtype=torch.float64)


def zeros(anchor: Tensors) -> Tensors:
    """A client's state before its first round: zeros."""
    return {name: torch.zeros_like(t) for name, t in anchor.items()}


def refuse_unless_plain(name: str, optimizer: LocalOptimizer) -> None:
    """For algorithms whose client state assumes steps of lr times gradient."""
    if not optimizer.plain:
        raise UserError(f"{name} derives a client's state from plain gradient steps: use LocalSGD without momentum")


def positive(name: str, value: float, *, zero: bool = True) -> None:
    """Raise a `UserError` unless value > 0, or value = 0 with `zero`."""
    if not (value > 0 or (zero and value == 0)):
        raise UserError(f"{name} is {'at least' if zero else 'above'} 0, not {value}")


def pull(grads: Tensors, params: Tensors, anchor: Tensors, strength: float) -> None:
    """grads += strength * (w - w_0), in place; exactly zero if w equals w_0, because Adam would amplify rounding."""
    for name, grad in grads.items():
        grad.add_(params[name] - anchor[name], alpha=strength)
