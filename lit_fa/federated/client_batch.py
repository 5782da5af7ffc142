"""Clients side by side: their parameters are stacked, and one step is taken by all that still have one.

Clients are sorted by their number of steps, so that those still active are always the first: a step works on views
`stack[:active]`, and no client is padded to the length of the longest.

Legend: k lanes (clients) of a stack, a of them active.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from lit_fa.federated.features import Features
from lit_fa.federated.local_optimizers import State
from lit_fa.federated.round_task import Learner, LocalTraining, Outcome, Work
from lit_fa.rules.base import Tensors

CACHE = 10 << 20  # bytes of parameters that lanes may take on a CPU: beyond, they leave the cache between two steps


class Lanes:
    """The stack of some clients while they train.

    Attributes:
        work: of these clients, those with most steps first.
        steps: that each of them takes.
        params: (k, ...) of every client.
        buffers: (k, ...) those that change; `shared`: the others, as at the server.
        optimizer: state of the local optimiser.
        states: (k, ...) what the clients kept.
        active: lanes that still have a step.
    """

    def __init__(self, local: LocalTraining, work: Work, changing: set[str]):
        """Stack the server's tensors."""
        k = len(work.round.clients)
        self.work, self.active, self.steps = work, k, work.round.steps
        self._params = {name: p.expand(k, *p.shape).clone() for name, p in work.params.items()}
        self._buffers = {n: b.expand(k, *b.shape).clone() for n, b in work.buffers.items() if n in changing}
        self.shared = {n: b for n, b in work.buffers.items() if n not in changing}
        self._optimizer = local.optimizer.init(self._params)
        self._states = {name: torch.stack([s[name] for s in work.states]) for name in work.states[0]}
        self._view(k)

    def advance(self, step: int) -> None:
        """Narrow every view to the lanes that take this step."""
        active = sum(steps > step for steps in self.steps)
        if active != self.active:
            self._view(active)

    def _view(self, active: int) -> None:
        self.active = active
        self.params, self.buffers = _first(self._params, active), _first(self._buffers, active)
        self.states = _first(self._states, active)
        self.optimizer: State = {kind: _first(tensors, active) for kind, tensors in self._optimizer.items()}

    def handed_back(self, local: LocalTraining, totals: Tensor) -> Outcome:
        """The sums over these clients."""
        self._view(len(self.work.round.clients))
        work, algorithm = self.work, local.algorithm
        steps = torch.tensor(work.round.steps, dtype=torch.float64)
        new = algorithm.new_state(self.params, work.params, self.states, work.server, steps, work.lr)
        change = {name: (t - self.states[name]).sum(0) for name, t in new.items()} if algorithm.has_server_state else {}
        kept = {c: {n: t[i].clone() for n, t in new.items()} for i, c in enumerate(work.round.clients)} if new else {}
        update = {n: _weighted(work.shares, work.params[n] - p) for n, p in self.params.items()}
        buffers = {n: _over_lanes(work.fractions, b) for n, b in self.buffers.items()}
        return Outcome(update, buffers, change, kept, totals)


class LaneExecutor:
    """What the executors with stacked clients share: chunks, order, and the loop over steps."""

    name = ""

    def __init__(self, lanes: int | None = None):
        """lanes: clients that are stacked at once; None: as many as fit into the cache of a CPU, all on a GPU."""
        self.lanes = lanes

    @torch.no_grad()
    def run(self, learner: Learner, local: LocalTraining, work: Work, features: Features | None = None) -> Outcome:
        """Train every client of the piece of work; the learner is left as it is."""
        outcome = Outcome({}, {}, {})
        changing = changing_buffers(learner, work)
        for chunk in self._chunks(work):
            lanes = Lanes(local, work.take(chunk), changing)
            outcome.add(lanes.handed_back(local, self.train(learner, local, lanes, features)))
        return outcome

    @abstractmethod
    def train(self, learner: Learner, local: LocalTraining, lanes: Lanes, features: Features | None) -> Tensor:
        """Take all local steps in place; returns (3,) float64: loss times samples, correct, samples."""

    def _chunks(self, work: Work) -> Iterator[list[int]]:
        steps = work.round.steps
        order = sorted(range(len(steps)), key=lambda lane: -steps[lane])
        chunks = math.ceil(len(order) / (self.lanes or _that_fit(work)))
        size = math.ceil(len(order) / chunks)  # no chunk is left with a lane or two
        return (order[i : i + size] for i in range(0, len(order), size))


def changing_buffers(learner: Learner, work: Work) -> set[str]:
    """Names of the buffers that local steps may change: running statistics, and what the rule renews."""
    names = {
        f"{prefix}.{name}"
        for prefix, module in learner.named_modules()
        if getattr(module, "track_running_stats", False)
        for name, _ in module.named_buffers(recurse=False)
    }
    _, renewed = learner.evolved(dict(work.params), dict(work.buffers), work.progress(0))
    return names | set(renewed)


def _that_fit(work: Work) -> int:
    size = sum(p.nbytes for p in work.params.values())
    on_cpu = all(p.device.type == "cpu" for p in work.params.values())
    return max(2, CACHE // max(size, 1)) if on_cpu else len(work.round.clients)


def _first(tensors: Tensors, active: int) -> Tensors:
    return {name: t[:active] for name, t in tensors.items()}


def _weighted(weights: Tensor, stacked: Tensor) -> Tensor:
    """Sum over lanes of weight times tensor, (k,) and (k, ...) to (...)."""
    return torch.tensordot(weights.to(stacked), stacked, 1)


def _over_lanes(fractions: Tensor, stacked: Tensor) -> Tensor:
    return _weighted(fractions, stacked) if stacked.is_floating_point() else stacked.amax(0)
