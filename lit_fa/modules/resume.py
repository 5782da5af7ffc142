"""What a checkpoint holds besides weights, so that a resumed run equals an uninterrupted one bit for bit.

Lightning's checkpoints leave out the random state, which dropout draws from, and every rank has its own.
"""

import torch
from torch import Tensor
from torch import distributed as dist


def states_of_ranks(totals: Tensor, window: dict) -> list[dict]:
    """One entry a rank: random states, running totals of the epoch, and the open window. A collective call."""
    own = {"rng": torch.get_rng_state(), "totals": totals.cpu(), "window": window}
    if torch.cuda.is_available():
        own["cuda_rng"] = torch.cuda.get_rng_state()
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    states: list[dict] = [{}] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states


def take_up(states: list[dict], rank: int) -> Tensor:
    """Set this rank's random states and return its totals; a run on more ranks than before shares what there is."""
    own = states[rank % len(states)]
    torch.set_rng_state(own["rng"].cpu())
    if "cuda_rng" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda_rng"].cpu())
    return own["totals"].cpu()
