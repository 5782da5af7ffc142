"""What a checkpoint stores besides weights, so that a resumed run equals an uninterrupted one bit for bit.

Lightning's checkpoints do not have the random state (dropout), which differs between ranks.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist


class BatchStart(NamedTuple):
    """The state before a batch, as far as the batch changes it before its optimiser step.

    A checkpoint that is written within a batch (Lightning's `OnExceptionCheckpoint`) stores this state, because the
    batch is repeated after resuming.

    Attributes:
        state: of the rank, see `state_of_rank`.
        buffers: of the network, by name, without feedback, which changes only in a step.
    """

    state: dict[str, Any]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module, totals: Tensor, window: dict[str, Any]) -> "BatchStart":
        """The current state."""
        buffers = {name: b.clone() for name, b in network.named_buffers() if ".feedback." not in name}
        return cls(state_of_rank(totals.clone(), window), buffers)


def state_of_rank(totals: Tensor, window: dict[str, Any]) -> dict[str, Any]:
    """Random states, running totals of the epoch, and the open window."""
    own = {"rng": torch.get_rng_state(), "totals": totals.cpu(), "window": window}
    return own | ({"cuda_rng": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def states_of_ranks(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all ranks. A collective call."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    states: list[dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states


def restore(states: list[dict[str, Any]], rank: int) -> Tensor:
    """Set the random states of this rank and return its totals; further ranks repeat the states of the first ones."""
    own = states[rank % len(states)]
    torch.set_rng_state(own["rng"].cpu())
    if "cuda_rng" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda_rng"].cpu())
    return own["totals"].cpu()
