"""Joint steps: the parameters of several runs are slices of stacked tensors, and one program computes all gradients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_fa.packs.member import Member
from lit_fa.packs.update import plain_update
from lit_fa.rules.base import Tensors
from lit_fa.written.gradient import GRADIENTS
from lit_fa.written.workspace import Workspace


class JointProgram:
    """The joint steps of members with one key.

    Args:
        members: k runs. Their parameters and feedback become slices of stacked tensors; they stay the same objects, so
            that optimisers, checkpoints and measurements of a run need not know.
    """

    def __init__(self, members: Sequence[Member]):
        """See the class."""
        self.members = members
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
        self.explicit = GRADIENTS[type(learners[0].rule)](learners, [m.chain for m in members], self.tensors)

    @property
    def is_intact(self) -> bool:
        """Whether the tensors of all members still are slices of the stacked ones."""
        lanes = ((lane, own) for lane, own in enumerate(self.own))
        return all(t.data_ptr() == self.tensors[n][lane].data_ptr() for lane, own in lanes for n, t in own.items())

    @torch.no_grad()
    def run(self, steps: int, stopped: Callable[[], bool]) -> int:
        """Take at most `steps` steps; returns how many. It ends early if `stopped`, or at an error of a member."""
        totals = torch.stack([member.module.totals for member in self.members])
        update = plain_update([m.optimizer for m in self.members], self.own, self.tensors, self.grads)
        for tensor, grad in self.slices:
            tensor.grad = grad
        taken = 0
        while taken < steps and not stopped() and not any(member.error for member in self.members):
            self._step(totals, update)
            taken += 1
        for member, own in zip(self.members, totals, strict=True):
            member.module.totals = own.clone()
            if member.error is None:
                member.optimizer.zero_grad(set_to_none=True)
        return taken

    def _step(self, totals: Tensor, update: Callable[[], None] | None) -> None:
        batches = [member.fetch() for member in self.members]
        targets = torch.stack([y for _, y in batches])
        losses, logits = self.explicit(self.tensors, self.grads, [x for x, _ in batches], targets, self.space)
        counted = torch.empty_like(totals)
        counted[:, 0] = losses.double().mul_(targets.shape[1])
        counted[:, 1] = (logits.argmax(-1) == targets).sum(-1)
        counted[:, 2] = targets.shape[1]
        for member, batch, loss, finite in zip(
            self.members, batches, losses, torch.isfinite(losses).tolist(), strict=True
        ):
            member.attempt(member.before_update if finite else partial(member.diverge, batch, loss))
        if update is not None and not any(member.error for member in self.members):
            update()
        else:
            for member in self.members:
                member.attempt(member.optimizer.step)
        for member in self.members:
            member.attempt(member.after_update)
        for lane, member in enumerate(self.members):
            if member.error is None:
                totals[lane] += counted[lane]


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
    layers = member.chain.layers
    names = {name for layer in layers for name in (layer.weight, layer.bias, layer.feedback_weight) if name}
    named = params | buffers
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
