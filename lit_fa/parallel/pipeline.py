"""The training step of one stage: forward passes run ahead, updates follow as soon as their error has come."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.utils import get_total_norm

from lit_fa.modules.metrics import logs_at
from lit_fa.modules.shares import own_samples
from lit_fa.parallel.examine import Found, owner_of_buffer
from lit_fa.parallel.link import Link
from lit_fa.parallel.schedule import Schedule, delays
from lit_fa.parallel.staged import Pass, run_stage, value_of
from lit_fa.parallel.stages import Plan
from lit_fa.rules.base import Batch


class Waiting(NamedTuple):
    """A batch whose update has not been applied yet.

    Attributes:
        done: of its forward pass.
        batch: inputs and targets.
        own: number of its samples that count.
        last: whether it is the last batch of its optimiser step.
    """

    done: Pass
    batch: Batch
    own: int
    last: bool


@dataclass
class Pipeline:
    """One stage of a classifier's training.

    Attributes:
        module: the classifier.
        plan: of its network.
        found: what its rule needs.
        stage: this rank.
        schedule: `sync` or `full`.
        waiting: the batches whose update is still to come, oldest first.
        fed: batches of the open optimiser step.
        open: whether a batch has come since the end of an epoch.
    """

    module: Any
    plan: Plan
    found: Found
    stage: int
    schedule: Schedule
    link: Link
    waiting: deque[Waiting] = field(default_factory=deque)
    fed: int = 0
    open: bool = False

    @property
    def last_stage(self) -> int:
        """The stage with the network's output."""
        return self.plan.stages - 1

    @property
    def delay(self) -> int:
        """How many batches this stage may run ahead of its updates."""
        return delays(self.plan.stages, error=self.found.error)[self.stage]

    def step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Run a batch forward, and apply the update of the oldest batch that is due; returns this stage's loss."""
        module, trainer = self.module, self.module.trainer
        own = own_samples(trainer.train_dataloader, batch_idx, len(batch[1]))
        self.open = True
        self.fed += 1
        last = self.fed >= module.accumulate or trainer.is_last_batch
        self.fed = 0 if last else self.fed
        done = self._forward(batch)
        module.check_finite(done.surrogate, batch)
        self.waiting.append(Waiting(done, batch, own, last))
        if self.schedule == "full" and self.delay:
            self._step_late()
        else:
            while len(self.waiting) > (0 if last else self.delay):
                self._learn(self.waiting.popleft())
        self._count(done, batch[1], own)
        if trainer.is_last_batch:
            self.end_epoch()
        module.batch_start = None
        return done.surrogate.loss

    def drain(self) -> None:
        """Apply the updates of all waiting batches; they do not count as steps, because their batches have."""
        with self.module.trainer.precision_plugin.train_step_context():
            while self.waiting:
                self._learn(self.waiting.popleft(), counts=self.schedule == "sync")
        self.link.finish()

    def end_epoch(self) -> None:
        """Apply all updates, and give every rank the totals and the weights of all stages; once an epoch."""
        if self.open:
            self.drain()
            self.module.totals = self._sum(self.module.totals, keep=2)
            self.gather()
            self.open = False

    def sum_totals(self) -> None:
        """Move loss and number of correct samples of all stages to the first rank."""
        if self.open:
            self.module.totals = self._sum(self.module.totals, keep=2)
            self.module.totals[:2] *= self.stage == 0

    @torch.no_grad()
    def gather(self) -> None:
        """Give every rank the parameters and buffers of all stages. A collective call."""
        learner = self.module.learner
        for name, p in learner.named_parameters():
            if (owner := self.found.owners.get(name)) is not None:
                dist.broadcast(p.data, owner)
        for name, buffer in learner.named_buffers():
            if (owner := owner_of_buffer(name, self.plan, self.found.owners)) is not None:
                dist.broadcast(buffer, owner)

    def total_norm(self, grads: list[Tensor]) -> Tensor:
        """The 2-norm of the gradients of all stages, as on one process: the norm of the parameters' norms."""
        if self.module.parts:  # every part is inside a stage
            return get_total_norm(grads)
        params = dict(self.module.learner.named_parameters())
        owned = [n for n in params if n in self.found.owners]
        norms = torch.zeros(len(owned), dtype=grads[0].dtype if grads else torch.float32)
        for i, name in enumerate(owned):
            if self.found.owners[name] == self.stage and (grad := params[name].grad) is not None:
                norms[i] = torch.linalg.vector_norm(grad)
        norms = norms.to(self.link.device)
        dist.all_reduce(norms)
        return torch.linalg.vector_norm(norms)

    def arrive(self) -> Tensor:
        """The activations of the stage before."""
        return self.link.receive(self.stage - 1, self._next_key())

    def leave(self, activations: Tensor) -> None:
        """Send activations to the next stage."""
        self.link.send(activations, self.stage + 1, self._next_key(sent=True))

    def _forward(self, batch: Batch) -> Pass:
        self._shape, self._passes, self._sent = tuple(batch[0].shape), 0, 0
        with self._own_random() if self.found.random else nullcontext(), self._current_weights():
            done = run_stage(self.module.learner, self.plan, self.stage, batch, self)
        if self.found.error and done.logits is not None and self.stage == self.last_stage:
            for stage in range(self.last_stage):
                self.link.send(done.logits, stage, ("logits", self._shape))
        return done

    def _learn(self, waiting: Waiting, counts: bool = True) -> None:
        """Add the gradient of a batch, and take the optimiser step if it is the last of its window."""
        module, (inputs, targets) = self.module, waiting.batch
        logits = None
        if waiting.done.waits:
            logits = self.link.receive(self.last_stage, ("logits", tuple(inputs.shape)))
        share = float(module.window.weigh(waiting.own, float))
        value = value_of(waiting.done, targets, module.learner.criterion, logits, share)
        if value.requires_grad:
            module.manual_backward(value)
        module.window.add(waiting.own)
        if waiting.last:
            module.take_step(counts=counts)

    def _step_late(self) -> None:
        """In a full pipeline with errors, every batch is a step, with the update of an older batch if there is one."""
        if len(self.waiting) > self.delay:
            self._learn(self.waiting.popleft())
        else:
            self.module.count_step()

    def _count(self, done: Pass, targets: Tensor, own: int) -> None:
        """Add this stage's share of loss and correct samples to the totals of the epoch; log the whole loss."""
        module, surrogate = self.module, done.surrogate
        known = self.stage == self.last_stage and not bool(torch.isnan(surrogate.logits).any())
        correct = (surrogate.logits.argmax(-1) == targets)[:own].sum().double() if known else 0.0
        module.totals += torch.tensor([float(surrogate.loss) * own, float(correct), own], dtype=torch.float64)
        number = module.global_step if module.accumulate == 1 else module.trainer.fit_loop.total_batch_idx + 1
        if logs_at(module.trainer, number):
            module.log("train/loss", self._sum(surrogate.loss.double()), prog_bar=True)

    def _sum(self, own: Tensor, keep: int | None = None) -> Tensor:
        """The sum over the ranks; of a vector, of its first `keep` entries. A collective call."""
        total = own.detach().clone().to(self.link.device)
        dist.all_reduce(total)
        if keep is not None:
            total[keep:] = own[keep:].to(total)
        return total.to(own.device)

    def _next_key(self, sent: bool = False) -> tuple[int, tuple[int, ...]]:
        """The number of the network's pass within the batch, and the shape of its inputs: both ranks know them."""
        if sent:
            self._sent += 1
            return self._sent, self._shape
        self._passes += 1
        return self._passes, self._shape

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        """Within, random numbers of this stage's own; the state outside stays the same on all ranks."""
        seed = int(torch.randint(2**62, ()))
        devices = [self.link.device] if self.link.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed + self.stage)
            yield

    def _current_weights(self) -> Any:
        """A backward pass that comes after later updates reads the weights of its own time: none are stored."""
        if self.schedule == "sync" or not self.delay:
            return nullcontext()
        return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), lambda tensor: tensor)
