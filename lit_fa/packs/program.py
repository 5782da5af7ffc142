"""Joint steps: the parameters of several runs are slices of stacked tensors, and one program computes all gradients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_fa.packs.mapped import MappedGradient
from lit_fa.packs.member import Member
from lit_fa.packs.replay import Capture, Replay, cuda_graph
from lit_fa.packs.update import Update, plain_update
from lit_fa.rules.base import Batch, Tensors
from lit_fa.written.gradient import GRADIENTS
from lit_fa.written.workspace import Workspace

Gradients = Callable[[Tensors, Tensors, Sequence[Tensor], Tensor, Workspace], tuple[Tensor, Tensor]]

CAPTURES: dict[str, Capture] = {"cuda": cuda_graph}  # by the type of a device


class JointProgram:
    """The joint steps of members with one key.

    Args:
        members: k runs. Their parameters and feedback become slices of stacked tensors; they stay the same objects, so
            that optimisers, checkpoints and measurements of a run need not know.
    """

    def __init__(self, members: Sequence[Member]):
        """See the class."""
        self.members = members
        self.edited = any(member.edits for member in members)  # which replaces `.grad`
        learners = [member.learner for member in members]
        self.own = [_tensors(member) for member in members]
        self.tensors = _stacked(self.own)
        self.space = Workspace(next(iter(self.tensors.values())))
        trained = {name for own in self.own for name, t in own.items() if t.requires_grad}
        self.grads = {name: torch.empty_like(self.tensors[name]) for name in self.tensors if name in trained}
        self.slices = [
            (tensor, self.grads[name][lane])
            for lane, own in enumerate(self.own)
            for name, tensor in own.items()
            if tensor.requires_grad
        ]
        self.totals = torch.zeros(len(members), 3, dtype=torch.float64, device=self.space.like.device)
        self.capture = CAPTURES.get(self.totals.device.type)
        self.replay: Replay | None = None
        self.replayed: object = None  # the rates of the captured update
        chains = [member.chain for member in members if member.chain is not None]
        self.gradients: Gradients = (
            GRADIENTS[type(learners[0].rule)](learners, chains, self.tensors) if chains else MappedGradient(learners)
        )

    @property
    def is_intact(self) -> bool:
        """Whether the tensors of all members still are slices of the stacked ones."""
        lanes = ((lane, own) for lane, own in enumerate(self.own))
        return all(t.data_ptr() == self.tensors[n][lane].data_ptr() for lane, own in lanes for n, t in own.items())

    @torch.no_grad()
    def run(self, steps: int, stopped: Callable[[], bool]) -> int:
        """Take at most `steps` steps; returns how many. It ends early if `stopped`, or at an error of a member."""
        self.totals.copy_(torch.stack([member.module.totals for member in self.members]))
        update, taken = self._joint_update(), 0
        self._hand_out()
        while taken < steps and not stopped() and not any(member.error for member in self.members):
            self._step(update)
            taken += 1
        for member, own in zip(self.members, self.totals, strict=True):
            member.module.totals = own.clone()
            if member.error is None:
                member.optimizer.zero_grad(set_to_none=True)
        return taken

    def _hand_out(self) -> None:
        """Let the memory of the gradients be every run's `.grad`."""
        for tensor, grad in self.slices:
            tensor.grad = grad

    def _joint_update(self) -> Update | None:
        """The update of all lanes at once; None: each optimiser's own step."""
        if self.edited:
            return None
        return plain_update([m.optimizer for m in self.members], self.own, self.tensors, self.grads)

    def _step(self, update: Update | None) -> None:
        batches = [member.fetch() for member in self.members]
        if self.capture is not None and update is not None and not any(m.watched for m in self.members):
            self._replayed(update, batches, self.capture)
        else:
            self._observed(update, batches)
        for member in self.members:
            member.attempt(member.after_update)

    def _replayed(self, update: Update, batches: Sequence[Batch], capture: Capture) -> None:
        """Gradients, update and totals as one graph; steps after which a value is read are observed ones."""
        if self.replay is None or self.replayed != update.rates:
            # a graph has the rates of its capture
            self.replay, self.replayed = Replay(lambda tensors: self._whole(update, tensors), capture), update.rates
        self.replay([*(x for x, _ in batches), *(y for _, y in batches)])

    def _whole(self, update: Update, tensors: Sequence[Tensor]) -> None:
        k = len(self.members)
        _, counted = self._gradients(tensors[:k], torch.stack([*tensors[k:]]))
        update()
        self.totals += counted

    def _gradients(self, inputs: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Write the gradients; returns losses (k,) and what the step adds to the totals (k, 3)."""
        losses, logits = self.gradients(self.tensors, self.grads, inputs, targets, self.space)
        counted = torch.empty_like(self.totals)
        counted[:, 0] = losses.double().mul_(targets.shape[1])
        counted[:, 1] = (logits.argmax(-1) == targets).sum(-1)
        counted[:, 2] = targets.shape[1]
        return losses, counted

    def _observed(self, update: Update | None, batches: Sequence[Batch]) -> None:
        """As `_replayed`, with what happens for each run between gradient and update."""
        if self.edited:
            self._hand_out()
        losses, counted = self._gradients([x for x, _ in batches], torch.stack([y for _, y in batches]))
        # reading a value waits for a graphics card, where the observed steps do it
        finite_ones = torch.isfinite(losses).tolist() if losses.device.type == "cpu" else [True] * len(losses)
        for member, batch, loss, finite in zip(self.members, batches, losses, finite_ones, strict=True):
            member.attempt(member.before_update if finite else partial(member.diverge, batch, loss))
        if update is not None and not any(member.error for member in self.members):
            update()
        else:
            for member in self.members:
                member.attempt(member.optimizer.step)
        for lane, member in enumerate(self.members):
            if member.error is None:
                self.totals[lane] += counted[lane]


def compose(members: Sequence[Member]) -> JointProgram:
    """The program of these members, the last one if they are the same."""
    program: Any = members[0].program
    if program is None or [*program.members] != [*members] or not program.is_intact:
        program = JointProgram([*members])
    for member in members:
        member.program = program
    return program


def _tensors(member: Member) -> Tensors:
    """Name to parameter or buffer of the layers and of the feedback of a member."""
    params, buffers = member.learner.tensors()
    named = params | buffers
    if member.chain is None:
        return named
    layers = member.chain.layers
    names = {name for layer in layers for name in (layer.weight, layer.bias, layer.feedback_weight) if name}
    return {n: t for n, t in named.items() if n in names or n.startswith("rule.feedback.")}


def _stacked(own: Sequence[Tensors]) -> Tensors:
    """Name to (k, ...); the tensors become slices of it. The slice of a member without such a tensor has no meaning."""
    stacked: Tensors = {}
    for name, like in {name: tensor for tensors in own for name, tensor in tensors.items()}.items():
        memory = like.new_zeros(len(own), *like.shape)
        for lane, tensors in enumerate(own):
            if name in tensors:
                memory[lane].copy_(tensors[name])
                tensors[name].data = memory[lane]
        stacked[name] = memory
    return stacked
