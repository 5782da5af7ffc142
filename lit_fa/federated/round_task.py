"""The task of one rank in one round, and its result: sums over clients, which can be added over ranks and batches.

Legend: k clients of the task. `index` is a client's place in the task, its id is `round.clients[index]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from lit_fa.federated.algorithms import FederatedAlgorithm
from lit_fa.federated.features import Features
from lit_fa.federated.local_optimizers import LocalOptimizer
from lit_fa.rules.base import Batch, Progress, Tensors
from lit_fa.rules.learner import Learner

_STRIDE = 2**20  # more local steps than any round has


class Round(Protocol):
    """The clients of a round and their data, a frozen dataclass: one batch of a federated loader.

    Attributes:
        number: of the round, from 0 on.
        clients: their ids, ascending.
        population: number of all clients, sampled or not.
        sizes: samples of each client.
        rows: (k, longest) on the CPU: samples in each step, 0 after a client's last step.
        places: (k, longest, ...) on the CPU: the samples of each step.
        dtype: of the inputs that `batch` and `stacked` return.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    number: int
    clients: tuple[int, ...]
    population: int
    sizes: tuple[int, ...]
    rows: Tensor
    places: Tensor
    dtype: torch.dtype | None

    @property
    def steps(self) -> tuple[int, ...]:
        """Local steps of each client."""

    def take(self, indices: Sequence[int]) -> "Round":
        """The round of only these clients."""

    def batch(self, index: int, step: int) -> Batch:
        """Inputs (b, ...) and targets (b,) of one client's step."""

    def stacked(self, active: int, step: int) -> Batch:
        """Inputs (active, b, ...) and targets (active, b) of the first clients; shorter steps are padded."""


@dataclass(frozen=True)
class LocalTraining:
    """How every client trains.

    Attributes:
        algorithm: what is added to local training and to averaging.
        optimizer: the clients' optimiser.
        seed: of what clients draw (dropout).
        stream: free a block's activations before the next block runs (sequential executor only).
        features: records the representation; None if the algorithm does not use it.
    """

    algorithm: FederatedAlgorithm
    optimizer: LocalOptimizer
    seed: int = 0
    stream: bool = False
    features: Features | None = None


@dataclass(frozen=True)
class StatesOf(Sequence[Tensors]):
    """The states of clients, each read when it is needed: a rank or a batch of clients reads only its own.

    Attributes:
        clients: what `read` accepts, in order.
        read: from a client to its state.
    """

    clients: Sequence[int]
    read: Callable[[int], Tensors]

    def __getitem__(self, index: Any) -> Any:
        """The state of the client at a position."""
        return self.read(self.clients[index])

    def __len__(self) -> int:
        """Number of clients."""
        return len(self.clients)


@dataclass(frozen=True)
class RoundTask:
    """Clients of a round and what the server sends them.

    Attributes:
        round: the clients and their batches.
        client_weights: (k,) float64, coefficient of each client's update in the server's gradient.
        sample_shares: (k,) float64, each client's share of the round's samples, by which buffers are averaged.
        params, buffers: the server's; executors only read them.
        states: what the algorithm stores for each client from round to round.
        server: what the algorithm stores at the server.
        lr: local learning rate of this round.
        rounds: of the whole run; None if it is not known.
    """

    round: Round
    client_weights: Tensor
    sample_shares: Tensor
    params: Tensors
    buffers: Tensors
    states: Sequence[Tensors]
    server: Tensors
    lr: float
    rounds: int | None = None

    def take(self, indices: Sequence[int]) -> "RoundTask":
        """The task of only these clients."""
        chosen = torch.tensor(indices, dtype=torch.int64)
        return replace(
            self,
            round=self.round.take(indices),
            client_weights=self.client_weights[chosen],
            sample_shares=self.sample_shares[chosen],
            states=StatesOf(indices, self.states.__getitem__),
        )

    def progress(self, step: int) -> Progress:
        """After `step` local steps. No two rounds share a step number, on which random draws depend."""
        number = self.round.number
        return Progress(number * _STRIDE + step, number, total_epochs=self.rounds)

    def result(
        self,
        algorithm: FederatedAlgorithm,
        params: Tensors,
        buffers: Tensors,
        state: Tensors,
        steps: int | Tensor,
        totals: Tensor,
    ) -> "RoundResult":
        """The result of the clients after their last step.

        Args:
            algorithm: makes the clients' new states.
            params, buffers, state: (k, ...) of all clients of the task; `buffers` are those that may have changed.
            steps: taken by each client, (k,); or by the only one.
            totals: as in `RoundResult`.
        """
        new = algorithm.new_state(params, self.params, state, self.server, steps, self.lr)
        update = {name: _weighted(self.client_weights, self.params[name] - p) for name, p in params.items()}
        averaged = {
            name: _weighted(self.sample_shares, b) if b.is_floating_point() else b.amax(0)
            for name, b in buffers.items()
        }
        change = {name: (t - state[name]).sum(0) for name, t in new.items()} if algorithm.has_server_state else {}
        clients = enumerate(self.round.clients if new else ())
        states = {client: {name: t[index].clone() for name, t in new.items()} for index, client in clients}
        return RoundResult(update, averaged, change, states, totals.cpu())


@dataclass
class RoundResult:
    """Sums over clients.

    Attributes:
        update: sum of client weight times (server's minus client's parameters).
        buffers: those that clients change: mean by sample share of floats, maximum of integers.
        state_change: sum of (new minus old) client state, if the server averages the states.
        states: client id to its new state.
        totals: (3,) float64: loss times samples, correct predictions, samples, over all local steps.
    """

    update: Tensors = field(default_factory=dict)
    buffers: Tensors = field(default_factory=dict)
    state_change: Tensors = field(default_factory=dict)
    states: dict[int, Tensors] = field(default_factory=dict)
    totals: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def add(self, other: "RoundResult") -> None:
        """Add the result of other clients."""
        self.update = _sum(self.update, other.update)
        self.state_change = _sum(self.state_change, other.state_change)
        self.buffers = _sum(self.buffers, other.buffers)
        self.states |= other.states
        self.totals = self.totals.to(other.totals.device) + other.totals


def sent_to_clients(task: RoundTask, learner: Learner) -> dict[str, Tensors]:
    """What the server sends to all clients, without client states and without feedback that clients can compute.

    Buffers without elements (feedback of a layer that is switched off) are left out.
    """
    follows = learner.renewed(task.params, task.buffers, task.round.number)
    buffers = {name: b for name, b in task.buffers.items() if name not in follows and b.numel()}
    return {"params": task.params, "buffers": buffers, "server": task.server}


def trainable(learner: Learner) -> Tensors:
    """The parameters that clients train and the server averages."""
    return {name: p for name, p in learner.named_parameters() if p.requires_grad}


def changing_buffers(learner: Learner) -> list[str]:
    """Sorted names of the buffers that local steps may change: running statistics, and what the rule evolves."""
    statistics = {
        f"{prefix}.{name}"
        for prefix, module in learner.named_modules()
        if getattr(module, "track_running_stats", False)
        for name, _ in module.named_buffers(recurse=False)
    }
    return sorted(statistics | {*learner.evolving()})


def client_seed(seed: int, number: int, client: int) -> int:
    """Random seed of a client in round `number`; it depends on neither executor nor rank."""
    return int.from_bytes(blake2b(repr(("client", seed, number, client)).encode(), digest_size=8).digest()) >> 1


def _weighted(weights: Tensor, stacked: Tensor) -> Tensor:
    """Sum over clients of weight times tensor, (k,) and (k, ...) to (...)."""
    if len(weights) == 1:  # a product in the tensor's own precision
        return stacked[0] * float(weights[0])
    return torch.tensordot(weights.to(stacked), stacked, 1)


def _sum(a: Tensors, b: Tensors) -> Tensors:
    """Sum by name; the maximum of integers."""
    both = {n: a[n] + b[n] if a[n].is_floating_point() else torch.maximum(a[n], b[n]) for n in a if n in b}
    return a | b | both
