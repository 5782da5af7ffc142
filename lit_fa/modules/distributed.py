"""A round on several ranks: which rank trains which client, and the sum of the results."""

from collections.abc import Sequence

import torch
from lightning.pytorch.strategies import Strategy
from torch import distributed as dist

from lit_fa.errors import UserError
from lit_fa.federated.round_task import RoundResult
from lit_fa.rules.base import Tensors

_GONE = (  # texts of gloo, of NCCL and its sockets, and of the store on rank 0
    "Connection reset by peer",
    "Connection closed by peer",
    "Connection closed by remote peer",
    "Broken pipe",
    "ncclRemoteError",
    "remote process exited or there was a network error",
    "Did the remote server shutdown or crash",
)
_SILENT = ("Timed out waiting", "Connect timeout", "Watchdog caught collective operation timeout", "No route to host")


class LostRankError(UserError):
    """Another process of the run has ended, or does not answer; the last checkpoint stays usable."""


def lost_rank(error: BaseException) -> LostRankError | None:
    """The error to show if `error` was raised because another process of the run ended or is silent; None for others.

    Other errors of gloo and NCCL (memory, versions, wrong use, a network card) are shown as they are.
    """
    text = " ".join(str(error).split())
    between_ranks = isinstance(error, getattr(dist, "DistError", ())) or "gloo" in text or "NCCL" in text
    states = {"is gone": _GONE, "has not answered within the strategy's timeout": _SILENT}
    state = next((state for state, signs in states.items() if any(sign in text for sign in signs)), None)
    if not between_ranks or state is None:
        return None
    return LostRankError(
        f"another rank of this run {state}; the last checkpoint stays usable: start the run again with --ckpt_path "
        f"({text[:160]})"
    )


def share_of(steps: Sequence[int], rank: int, ranks: int) -> list[int]:
    """Indices of the clients of one rank. Clients are assigned in order of their steps, most first, to the rank that
    has the fewest steps so far.

    >>> [share_of([5, 1, 4, 2], rank, 2) for rank in (0, 1)]
    [[0, 1], [2, 3]]
    """
    load = [0] * ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for client in sorted(range(len(steps)), key=lambda client: -steps[client]):
        least = load.index(min(load))
        load[least] += steps[client]
        shares[least].append(client)
    return sorted(shares[rank])


def summed(
    result: RoundResult,
    params: Tensors,
    buffers: Tensors,
    strategy: Strategy,
    *,
    state_changes: bool,
    gather_states: bool,
) -> RoundResult:
    """The sum over all ranks, available on each; three reductions of flat vectors for any network.

    Args:
        result: of this rank; empty on a rank without a client.
        params: of the server, for names and shapes.
        buffers: that clients change.
        strategy: of the trainer.
        state_changes: whether the server averages the clients' states.
        gather_states: whether every rank needs the new states of all clients; otherwise it has its own.
    """
    floats = {n: b for n, b in buffers.items() if b.is_floating_point()}
    counts = {n: b for n, b in buffers.items() if not b.is_floating_point()}
    update = _reduced(result.update, params, strategy, "sum")
    change = _reduced(result.state_change, params, strategy, "sum") if state_changes else {}
    averaged = _reduced(result.buffers, floats, strategy, "sum") | _reduced(result.buffers, counts, strategy, "max")
    device = next(iter(params.values())).device
    totals = strategy.reduce(result.totals.to(device), reduce_op="sum")
    states = _gathered(result.states, device) if gather_states else result.states
    return RoundResult(update, averaged, change, states, totals)


def _reduced(tensors: Tensors, like: Tensors, strategy: Strategy, how: str) -> Tensors:
    if not like:
        return {}
    own = [tensors[name] if name in tensors else torch.zeros_like(t) for name, t in like.items()]
    flat = strategy.reduce(torch.cat([t.reshape(-1) for t in own]), reduce_op=how)
    parts = flat.split([t.numel() for t in own])
    return {name: part.view(t.shape).to(t.dtype) for part, (name, t) in zip(parts, like.items(), strict=True)}


def _gathered(states: dict[int, Tensors], device: torch.device) -> dict[int, Tensors]:
    if not (dist.is_available() and dist.is_initialized()):
        return states
    ranks: list[dict[int, Tensors]] = [{}] * dist.get_world_size()
    dist.all_gather_object(ranks, {c: {n: t.cpu() for n, t in s.items()} for c, s in states.items()})
    return {c: {n: t.to(device) for n, t in s.items()} for own in ranks for c, s in own.items()}
