"""What a checkpoint holds besides weights, so that a resumed run equals an uninterrupted one bit for bit.

Lightning's checkpoints leave out the random state, which dropout draws from, and every rank has its own.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist


class Begun(NamedTuple):
    """What a batch changes before its step, as it was when the batch began.

    A checkpoint that is written in the middle of a batch (Lightning's `OnExceptionCheckpoint`) holds this, because the
    batch is done again on resuming.

    Attributes:
        state: of the rank, see `state_of_rank`.
        buffers: of the network, by name; feedback, which only a step changes, is left out.
    """

    state: dict[str, Any]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module, totals: Tensor, window: dict[str, Any]) -> "Begun":
        """As it is now."""
        kept = {name: b.clone() for name, b in network.named_buffers() if ".feedback." not in name}
        return cls(state_of_rank(totals.clone(), window), kept)


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


def take_up(states: list[dict[str, Any]], rank: int) -> Tensor:
    """Set this rank's random states and return its totals; a run on more ranks than before shares what there is."""
    own = states[rank % len(states)]
    torch.set_rng_state(own["rng"].cpu())
    if "cuda_rng" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda_rng"].cpu())
    return own["totals"].cpu()
