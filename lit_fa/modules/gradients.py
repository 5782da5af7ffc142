"""How a `Classifier` computes the gradients of a batch: by autograd, block by block, or by explicit products.

`step: written` computes them as `lit_fa.written` does, equal bit for bit to those of the rule's scalar. Everything
else, from clipping to the optimiser, is the same, so a checkpoint may be continued with another `step`.
"""

import logging
from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from lit_fa.errors import UserError
from lit_fa.layers.hooks import is_ours
from lit_fa.lightning_privates import callbacks_of
from lit_fa.modules.stepping import BlockSteps
from lit_fa.modules.trainer_options import precision_of
from lit_fa.rules.base import Batch, Surrogate
from lit_fa.rules.learner import Learner
from lit_fa.written import Unsupported, WrittenGradient
from lit_fa.written.gradient import read

log = logging.getLogger(__name__)
Step = Literal["autograd", "written", "auto"]
EXACT = ("32-true", "64-true")
BACKWARD = ("on_before_backward", "on_after_backward")


class Gradients:
    """Adds the gradients of a batch to `.grad`.

    Args:
        learner: network and rule.
        step: `autograd`, `written` or `auto`.
        stream: as in `Classifier`.
        compile, accumulate: of the classifier; `step: written` has neither.

    Raises:
        UserError: `step: written` where there are no explicit products, in one line.
    """

    def __init__(self, learner: Learner, step: Step, *, stream: bool | str, compile: bool, accumulate: int):
        """See the class."""
        self.learner, self.step, self.stream = learner, step, stream
        options = {f"stream: {stream}": stream, "compile: true": compile, f"accumulate: {accumulate}": accumulate > 1}
        self.excluded = next((f"{name} is a step of its own" for name, chosen in options.items() if chosen), None)
        self.written: WrittenGradient | None = None  # of this fit
        self.undecided = False
        if step == "written":
            self.refuse(self.excluded or _unread(learner))

    def start(self, module: L.LightningModule) -> None:
        """Decide, when a fit starts, how its gradients are computed.

        Raises:
            UserError: `step: written` with a trainer or a callback that needs autograd.
        """
        self.written, self.undecided = None, False
        if self.step == "autograd":
            return
        reason = self.why_not_written(module)
        if self.step == "written":
            self.refuse(reason)
        reason = reason or _unproven()
        if reason and self.step == "auto":
            log.info("step: autograd (%s)", reason)
            return
        self.written, self.undecided = WrittenGradient([self.learner]), self.step == "auto"

    def why_not_written(self, module: L.LightningModule) -> str | None:
        """What needs autograd in this fit, or None."""
        return self.why_in_loop(module) or _needs_autograd(self.learner) or _unread(self.learner)

    def why_in_loop(self, module: L.LightningModule) -> str | None:
        """What needs the training loop around every step of this fit, or None."""
        return self.excluded or _needs_the_loop(module)

    def __call__(self, module: Any, batch: Batch, share: Tensor | float = 1.0) -> Surrogate:
        """Add the gradients of one batch, times `share`, to `.grad`; the module is a `Classifier` in training."""
        if self.undecided:
            self._decide(batch)
        if self.written is not None:
            losses, logits = self.written(batch)
            return Surrogate(losses[0], losses[0], logits[0])
        backward: Callable[[Tensor], None] = module.manual_backward
        if isinstance(share, Tensor) or share != 1.0:

            def backward(value: Tensor) -> None:
                module.manual_backward(value * (share.to(value.dtype) if isinstance(share, Tensor) else share))

        if self.stream:
            if module.trainer.world_size > 1:
                raise UserError("stream: true is for one device; set stream: false or trainer.devices: 1")
            if self.stream == "step":
                clip = None if module.clip is None else module.clip_now
                with BlockSteps(self.learner, module.optimizer.optimizer, clip).after(backward) as learn:
                    return self.learner.stream(batch, learn)
            return self.learner.stream(batch, backward)
        surrogate = self.learner(batch)
        backward(surrogate.value)
        return surrogate

    def refuse(self, reason: str | None) -> None:
        """Raise an error if there is a reason against `step: written`."""
        if reason:
            raise UserError(f"step: written is not possible: {reason}; set step: auto, or leave it out")

    def _decide(self, batch: Batch) -> None:
        """`auto`: keep the explicit products if the gradients of the first batch are equal bit for bit."""
        assert self.written is not None
        self.undecided = False
        self.learner(batch).value.backward()
        named = {name: p for name, p in self.learner.named_parameters() if p.requires_grad}
        expected = {name: p.grad for name, p in named.items()}
        self.written(batch)
        for name, p in named.items():
            if (grad := expected[name]) is None or p.grad is None or not torch.equal(grad, p.grad):
                self.written = None
                log.info("step: autograd (the explicit gradient of %s is rounded differently here)", name)
                break
        else:
            log.info("step: written (equal to autograd bit for bit on the first batch)")
        self.learner.zero_grad(set_to_none=True)


def _unread(learner: Learner) -> str | None:
    """Why network and rule have no explicit gradient, or None."""
    try:
        read(learner)
    except Unsupported as reason:
        return str(reason)
    return None


def _unproven() -> str | None:
    """Where explicit products may be rounded otherwise than autograd's, or None."""
    return None if torch.get_num_threads() == 1 else "more than one thread, which may divide products differently"


def _needs_the_loop(module: L.LightningModule) -> str | None:
    """What the trainer or its callbacks need that only Lightning's backward pass has, or None."""
    trainer = module.trainer
    if type(trainer.strategy) is not SingleDeviceStrategy:
        return f"strategy {type(trainer.strategy).__name__} is not of one device"
    if precision_of(trainer) not in EXACT:
        return f"precision {precision_of(trainer)} is rounded by autocast"
    for owner, base in [*((c, L.Callback) for c in callbacks_of(trainer)), (module, L.LightningModule)]:
        if any(getattr(type(owner), hook) is not getattr(base, hook) for hook in BACKWARD):
            return f"{type(owner).__name__} looks at the backward pass"
    return None


def _needs_autograd(learner: Learner) -> str | None:
    """What looks at the graph or at single modules, or None."""
    if torch.is_anomaly_enabled():
        return "detect_anomaly looks at the nodes of autograd"
    for name, part in learner.network.named_modules():
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
        if any(not is_ours(hook) for group in hooks for hook in group.values()):
            return f"{name or 'the network'} has a hook"
    if any(p._backward_hooks for p in learner.parameters()):
        return "a parameter has a hook"
    return None
