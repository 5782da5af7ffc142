"""What one rank does in one round, and what it hands back: sums over clients, so that ranks and chunks simply add up.

Legend: k clients of this piece of work, n their samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Protocol

import torch
from torch import Tensor, nn

from lit_fa.federated.algorithms import FedAvg
from lit_fa.federated.local_optimizers import LocalOptimizer
from lit_fa.rules.base import Batch, Progress, Tensors

Learner = (
    nn.Module
)  # `modules.learner.Learner`: network and rule as one function of a batch; that file sees Lightning's side

_STRIDE = 2**20  # more local steps than any round has


class Round(Protocol):
    """Which clients train in a round, and on what: one batch of a federated loader.

    Attributes:
        number: of the round, from 0 on.
        clients: their ids, ascending.
        population: clients there are, sampled or not.
        sizes: samples that each client has.
        steps: local steps that each client takes.
        rows: (k, longest) on the CPU: samples in each step, 0 after a client's last step.
        dtype: of the inputs that `batch` and `stacked` give.
    """

    number: int
    clients: tuple[int, ...]
    population: int
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    rows: Tensor
    dtype: torch.dtype | None

    def take(self, lanes: Sequence[int]) -> "Round":
        """The round of only these lanes."""

    def batch(self, lane: int, step: int) -> Batch:
        """Inputs (b, ...) and targets (b,) of one client's step."""

    def stacked(self, active: int, step: int) -> Batch:
        """Inputs (active, b, ...) and targets (active, b) of the first lanes; shorter steps are padded."""


@dataclass(frozen=True)
class LocalTraining:
    """How every client trains: `stream` frees a block's activations before the next block runs (sequential only)."""

    algorithm: FedAvg
    optimizer: LocalOptimizer
    seed: int = 0
    stream: bool = False


@dataclass(frozen=True)
class Work:
    """A piece of a round.

    Attributes:
        round: the clients and their batches.
        shares: (k,) float64, coefficient of each client's movement in the server's gradient.
        fractions: (k,) float64, each client's part of the round's samples, by which buffers are averaged.
        params, buffers: the server's; executors read them.
        states: what each client kept.
        server: what the algorithm keeps at the server.
        lr: of this round.
        rounds: of the whole run; None where that is not known.
    """

    round: Round
    shares: Tensor
    fractions: Tensor
    params: Tensors
    buffers: Tensors
    states: Sequence[Tensors]
    server: Tensors
    lr: float
    rounds: int | None = None

    def take(self, lanes: Sequence[int]) -> "Work":
        """The work of only these lanes."""
        chosen = torch.tensor(lanes, dtype=torch.int64)
        return replace(
            self,
            round=self.round.take(lanes),
            shares=self.shares[chosen],
            fractions=self.fractions[chosen],
            states=[self.states[lane] for lane in lanes],
        )

    def progress(self, step: int) -> Progress:
        """Where a client stands after `step` local steps; no two rounds share a number, on which draws depend."""
        number = self.round.number
        return Progress(number * _STRIDE + step, number, total_epochs=self.rounds)


def travelling(work: Work, learner: Learner) -> dict[str, Tensors]:
    """What the server sends to clients: not the feedback that follows from the parameters, and no client's state."""
    follows = learner.renewed(work.params, work.buffers, work.round.number)
    buffers = {name: b for name, b in work.buffers.items() if name not in follows}
    return {"params": work.params, "buffers": buffers, "server": work.server}


@dataclass
class Outcome:
    """Sums over clients.

    Attributes:
        update: sum of share times (server's minus client's parameters).
        buffers: those that clients change: floating-point ones averaged by fraction, the largest of the integers.
        change: sum of (new minus old) client state.
        states: client id to what it keeps now.
        totals: (3,) float64: loss times samples, correct, samples, over all local steps.
    """

    update: Tensors
    buffers: Tensors
    change: Tensors
    states: dict[int, Tensors] = field(default_factory=dict)
    totals: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def add(self, other: "Outcome") -> "Outcome":
        """The sum of two pieces of work."""
        self.update = _sum(self.update, other.update)
        self.change = _sum(self.change, other.change)
        self.buffers = {n: _joined(self.buffers[n], b) if n in self.buffers else b for n, b in other.buffers.items()}
        self.states |= other.states
        self.totals = self.totals.to(other.totals.device) + other.totals
        return self


def client_seed(seed: int, number: int, client: int) -> int:
    """The random state a client starts a round with: of seed, round and client, never of executor, rank or lane."""
    return int.from_bytes(blake2b(repr(("client", seed, number, client)).encode(), digest_size=8).digest()) >> 1


def trainable(learner: Learner) -> Tensors:
    """What clients train and the server averages."""
    return {name: p for name, p in learner.named_parameters() if p.requires_grad}


def _sum(a: Tensors, b: Tensors) -> Tensors:
    return {name: a[name] + t if name in a else t for name, t in b.items()} | {n: t for n, t in a.items() if n not in b}


def _joined(a: Tensor, b: Tensor) -> Tensor:
    return a + b if a.is_floating_point() else torch.maximum(a, b)
