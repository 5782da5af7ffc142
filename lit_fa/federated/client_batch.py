"""Several clients trained at once: their parameters are stacked, and all clients that have a local step take it.

Clients are sorted by their number of steps, most first, so that the active clients are always the first ones. A step
works on views `stack[:active]`, and no client is padded to the number of steps of the longest.

Legend: k clients of a batch.
"""

import math
from abc import ABC, abstractmethod
from functools import partial, reduce

import torch
from torch import Tensor, vmap

from lit_fa.federated.client_step import Gradient, TrainingClient, client_step
from lit_fa.federated.round_task import LocalTraining, RoundResult, RoundTask, changing_buffers
from lit_fa.rules.base import Tensors
from lit_fa.rules.learner import Learner

CACHE = 10 << 20  # bytes of parameters of a client batch on a CPU: larger ones leave its cache between two steps


class ClientBatch(TrainingClient):
    """A batch of clients; the tensors are views of the first rows of the stacks.

    Attributes:
        task: of these clients, those with most steps first.
        active: number of clients that still have a step.
    """

    def __init__(self, local: LocalTraining, task: RoundTask, changing: list[str]):
        """Stack the server's tensors."""
        k = len(task.round.clients)
        self.task, self.steps = task, task.round.steps
        self.shared = {name: b for name, b in task.buffers.items() if name not in changing}
        self._params = {name: p.expand(k, *p.shape).clone() for name, p in task.params.items()}
        self._buffers = {name: task.buffers[name].expand(k, *task.buffers[name].shape).clone() for name in changing}
        self._optimizer_state = local.optimizer.init(self._params)
        states = [*task.states]  # read once
        self._state = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        self._narrow(k)

    def advance(self, step: int) -> None:
        """Narrow every view to the clients that take this step."""
        active = sum(steps > step for steps in self.steps)
        if active != self.active:
            self._narrow(active)

    def result(self, local: LocalTraining, totals: Tensor) -> RoundResult:
        """The sums over these clients after their last step."""
        steps = torch.tensor(self.steps, dtype=torch.float64)
        return self.task.result(local.algorithm, self._params, self._buffers, self._state, steps, totals)

    def _narrow(self, active: int) -> None:
        self.active = active
        self.params, self.buffers = _first(self._params, active), _first(self._buffers, active)
        self.state = _first(self._state, active)
        self.optimizer_state = {kind: _first(t, active) for kind, t in self._optimizer_state.items()}


class ClientBatchExecutor(ABC):
    """Base class of the executors that stack clients; subclasses compute the gradient."""

    name = ""
    each = staticmethod(partial(vmap, randomness="same"))  # random draws of a rule depend only on its seed and the step

    def __init__(self, size: int | None = None):
        """size: most clients of a batch; None: as many as fit into the cache of a CPU, all on a GPU."""
        self.size = size

    @abstractmethod
    def refusal(self, learner: Learner, local: LocalTraining) -> str | None:
        """Why this executor cannot train this learner, or None."""

    @abstractmethod
    def gradient(self, learner: Learner, local: LocalTraining, clients: ClientBatch) -> Gradient:
        """The gradient of the surrogate of all active clients, or {} where it has updated the weights itself."""

    @torch.no_grad()
    def run(self, learner: Learner, local: LocalTraining, task: RoundTask) -> RoundResult:
        """Train every client of the task; the learner does not change."""
        result, changing = RoundResult(), changing_buffers(learner)
        for indices in self.batches(task):
            clients = ClientBatch(local, task.take(indices), changing)
            gradient = self.gradient(learner, local, clients)
            totals = []
            for step in range(clients.steps[0]):
                clients.advance(step)
                totals.append(client_step(learner, local, clients.task, clients, step, gradient, self.each))
            result.add(clients.result(local, reduce(torch.add, totals)))
        return result

    def batches(self, task: RoundTask) -> list[list[int]]:
        """Indices of the clients of each batch: most steps first, and batches of nearly equal size."""
        steps = task.round.steps
        order = sorted(range(len(steps)), key=lambda index: -steps[index])
        number = math.ceil(len(order) / (self.size or _fitting(task)))
        size = math.ceil(len(order) / number)
        return [order[start : start + size] for start in range(0, len(order), size)]


def _fitting(task: RoundTask) -> int:
    """Clients whose parameters fit into the cache."""
    nbytes = sum(p.nbytes for p in task.params.values())
    on_cpu = all(p.device.type == "cpu" for p in task.params.values())
    return max(2, CACHE // max(nbytes, 1)) if on_cpu else len(task.round.clients)


def _first(tensors: Tensors, active: int) -> Tensors:
    return {name: tensor[:active] for name, tensor in tensors.items()}
