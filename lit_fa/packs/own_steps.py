"""Steps of one run by autograd, without the training loop between them.

What such a step computes is what `Classifier.training_step` computes, in the same order and in the run's own turn, so
random numbers, hooks and results are those of the run alone. What it leaves out is the work of the training loop for
steps that nothing observes.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lit_fa.packs.member import Member


def own_steps(member: "Member", steps: int, stopped: Callable[[], bool]) -> int:
    """Take at most `steps` steps of one run; returns how many. It ends early if `stopped`.

    Raises:
        NonFiniteLossError: as in an ordinary step; the step is not counted.
    """
    taken, context = 0, member.trainer.precision_plugin.train_step_context
    with torch.enable_grad(), context():
        while taken < steps and not stopped():
            _step(member)
            taken += 1
    return taken


def _step(member: "Member") -> None:
    module, batch = member.module, member.fetch()
    surrogate = member.learner(batch)
    surrogate.value.backward()
    if not math.isfinite(surrogate.loss):
        member.diverge(batch, surrogate.loss)
    with torch.no_grad():
        member.before_update()
    member.optimizer.step()
    member.optimizer.zero_grad(set_to_none=True)
    member.after_update()
    module.epoch.add(surrogate.loss, surrogate.logits.argmax(-1) == batch[1], len(batch[1]))
