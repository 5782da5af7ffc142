"""`stream: step`: the optimiser updates each block as soon as its gradient exists, and the gradient is freed at once.

So a step needs the memory of one block, whatever the depth: its activations and its gradients. The update equals that
of one optimiser step after all blocks, bit for bit, because a block's gradient does not depend on the parameters of
other blocks once the outputs are computed, and torch's optimisers skip parameters without a gradient.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.lightning_privates import callbacks_of
from lit_fa.rules.base import Does
from lit_fa.rules.learner import Learner

_REMEDY = "set stream: true"


def check_rule(learner: Learner, *, accumulate: int, norm_of_all: bool) -> None:
    """Refuse what needs the gradients of all blocks at once.

    Args:
        learner: network and rule.
        accumulate: batches of an optimiser step.
        norm_of_all: whether gradients are clipped by one norm over several blocks.

    Raises:
        UserError: the option that needs them.
    """
    reasons = {
        f"accumulate: {accumulate} sums gradients over batches": accumulate > 1,
        "clip by the norm of all gradients needs them at once (clip_by: value does not)": norm_of_all,
        f"{type(learner.rule).__name__} edits the gradients of all blocks": Does.EDITS in learner.rule.does,
        f"{type(learner.rule).__name__} takes measurements from gradients": bool(learner.measured()),
    }
    _refuse(reasons)


def check_trainer(trainer: L.Trainer) -> None:
    """Refuse what observes or scales the gradients of all blocks at once, or repeats a batch after a failure.

    Raises:
        UserError: the callback or precision that does.
    """
    callbacks = callbacks_of(trainer)
    hooks = ("on_before_optimizer_step", "on_before_zero_grad")
    looks = [
        type(c).__name__ for c in callbacks if any(getattr(type(c), h) is not getattr(L.Callback, h) for h in hooks)
    ]
    repeats = [type(c).__name__ for c in callbacks if isinstance(c, OnExceptionCheckpoint)]
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    _refuse({
        f"{', '.join(looks)} observes the gradients of all blocks": bool(looks),
        f"{', '.join(repeats)} stores a batch that is half done": bool(repeats),
        f"precision {trainer.precision} scales gradients": scaler is not None,
    })  # fmt: skip


class BlockSteps:
    """The optimiser steps within one batch. A step costs as much as its own parameters, whatever the depth.

    Args:
        learner: network and rule.
        optimizer: torch's, of all blocks.
        clip: clips the gradients that exist, in place; None does not.
    """

    def __init__(self, learner: nn.Module, optimizer: torch.optim.Optimizer, clip: Callable[[], None] | None):
        """Nothing is updated yet."""
        self.learner, self.optimizer, self.clip = learner, optimizer, clip
        self.made: list[Tensor] = []  # parameters whose gradient has just been made
        self.done: set[int] = set()
        groups = enumerate(optimizer.param_groups)
        self.places = {id(p): (number, place) for number, g in groups for place, p in enumerate(g["params"])}

    @contextmanager
    def after(self, backward: Callable[[Tensor], None]) -> Iterator[Callable[[Tensor], None]]:
        """Within, `backward` followed by the step of the parameters that it reaches."""

        def learn(value: Tensor) -> None:
            backward(value)
            self.step()

        params = [p for p in self.learner.parameters() if p.requires_grad]
        hooks = [p.register_post_accumulate_grad_hook(self.made.append) for p in params]
        try:
            yield learn
        finally:
            for hook in hooks:
                hook.remove()

    def step(self) -> None:
        """Update the parameters that have a gradient, and free it.

        Raises:
            UserError: one of them was updated before, since it learns from several losses.
        """
        reached = {id(p): p for p in self.made}
        self.made.clear()
        if twice := self.done & reached.keys():
            name = next(name for name, p in self.learner.named_parameters() if id(p) in twice)
            raise UserError(f"stream: step updates a block after its own loss, and {name} has several: {_REMEDY}")
        self.done |= reached.keys()
        if self.clip is not None:
            self.clip()
        with self._only(reached):
            self.optimizer.step()
        for p in reached.values():
            p.grad = None

    @contextmanager
    def _only(self, reached: dict[int, Tensor]) -> Iterator[None]:
        """Within, the optimiser has only these parameters, in its own order and groups; the others have no gradient."""
        every = self.optimizer.param_groups
        places = sorted(self.places[key] for key in reached if key in self.places)
        whole = {number: every[number]["params"] for number, _ in places}
        for number, params in whole.items():
            every[number]["params"] = [params[place] for owner, place in places if owner == number]
        self.optimizer.param_groups = [every[number] for number in whole]
        try:
            yield
        finally:
            for number, params in whole.items():
                every[number]["params"] = params
            self.optimizer.param_groups = every


def _refuse(reasons: dict[str, bool]) -> None:
    for reason, holds in reasons.items():
        if holds:
            raise UserError(f"stream: step updates block by block, and {reason}: {_REMEDY}")
