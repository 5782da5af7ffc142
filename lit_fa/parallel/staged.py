"""One stage of a network: the modules of other stages are replaced, within a pass, by what arrives from there.

The rule's own surrogate runs on the network. A module of another stage returns nan without computing anything, except
the one before the stage, which returns the activations that the previous rank has sent. Nobody calls the rule's
visitor at the block boundaries of other stages. If the rule applies its criterion to the output of the network, which
a stage does not have, the criterion is left out, and the gradient of its argument is computed later from the logits of
the last stage. So the gradients of a stage's parameters are those of one process, bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError
from lit_fa.parallel.stages import Plan, taps_of
from lit_fa.rules.base import Batch, Criterion, Surrogate
from lit_fa.rules.learner import Learner


class Wire(Protocol):
    """Where the activations of a pass come from and go to."""

    def arrive(self) -> Tensor:
        """The activations of the stage before."""

    def leave(self, activations: Tensor) -> None:
        """Hand activations to the next stage."""


@dataclass(eq=False)
class Deferred:
    """A criterion that is left out where its argument depends on the output of another stage, which is nan.

    Attributes:
        criterion: of the learner.
        arguments: the (n, c) arguments of the calls that were left out, with their backward paths.
    """

    criterion: Criterion
    arguments: list[Tensor] = field(default_factory=list)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The criterion, or zero."""
        if not bool(torch.isnan(logits).all()):
            return self.criterion(logits, targets)
        self.arguments.append(logits)
        return torch.zeros((), dtype=logits.dtype, device=logits.device)


class Pass(NamedTuple):
    """What a stage has computed for one batch.

    Attributes:
        surrogate: of the rule; the loss is the stage's share, and the logits are nan except on the last stage.
        arguments: of the criterion, see `Deferred`; none on the last stage.
        logits: (n, c) network output, on the last stage.
    """

    surrogate: Surrogate
    arguments: list[Tensor]
    logits: Tensor | None

    @property
    def waits(self) -> bool:
        """Whether a gradient comes from the logits of the last stage."""
        return any(argument.requires_grad for argument in self.arguments)


def run_stage(learner: Learner, plan: Plan, stage: int, batch: Batch, wire: Wire) -> Pass:
    """The surrogate of one stage for a batch, of which every stage has inputs and targets."""
    deferred, outputs = Deferred(learner.criterion), list[Tensor]()
    with _replaced(learner.network, plan, stage, wire, outputs), _only(taps_of(learner), plan, stage):
        surrogate = learner.rule.surrogate(learner.network, batch, deferred)
    return Pass(surrogate, deferred.arguments, outputs[-1] if outputs else None)


def value_of(
    done: Pass, targets: Tensor, criterion: Criterion, logits: Tensor | None, share: Tensor | float = 1.0
) -> Tensor:
    """The scalar whose gradient is the update of the stage, times `share`.

    Args:
        done: of the batch.
        targets: of the batch.
        criterion: of the learner.
        logits: of the last stage, if the pass waits for them.
        share: the factor of the batch in its optimiser step.
    """
    value = done.surrogate.value
    value = value if isinstance(share, float) and share == 1.0 else value * share
    if not done.waits or logits is None:
        return value
    leaf = logits.detach().requires_grad_(True)
    loss = criterion(leaf, targets)
    (error,) = torch.autograd.grad(loss if isinstance(share, float) and share == 1.0 else loss * share, leaf)
    for argument in done.arguments:
        if argument.requires_grad:
            value = value + (argument * error.to(argument.dtype)).sum()
    return value


@contextmanager
def _replaced(network: nn.Module, plan: Plan, stage: int, wire: Wire, outputs: list[Tensor]) -> Iterator[None]:
    """Within, links of other stages compute nothing, and the ends of the stage are on the wire."""
    own, given, sends = {*plan.of(stage)}, plan.given(stage), plan.sends(stage)
    changed = []
    for name in plan.links:
        module = network.get_submodule(name)
        if name == given:
            forward: Callable[..., Tensor] = _arriving(wire)
        elif name not in own:
            forward = _absent(*plan.shapes[name])
        elif name == sends:
            forward = _passing(module.forward, wire.leave)
        elif name == plan.links[-1]:
            forward = _passing(module.forward, lambda output: outputs.append(output.detach()))
        else:
            continue
        vars(module)["forward"] = forward
        changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


@contextmanager
def _only(taps: Any, plan: Plan, stage: int) -> Iterator[None]:
    """Within, the visitor of the taps is called at the boundaries of this stage only."""
    given = plan.given(stage)
    taps.absent = frozenset(name for name in plan.taps if plan.stage_of(name) != stage) - {given}
    taps.given = given
    try:
        yield
    finally:
        taps.absent, taps.given = frozenset(), None


def _arriving(wire: Wire) -> Callable[..., Tensor]:
    return lambda *_args, **_options: wire.arrive()


def _passing(forward: Callable[..., Tensor], note: Callable[[Tensor], None]) -> Callable[..., Tensor]:
    def passing(*args: Any, **options: Any) -> Tensor:
        output = forward(*args, **options)
        note(output)
        return output

    return passing


def _absent(shape: tuple[int, ...], dtype: torch.dtype) -> Callable[..., Tensor]:
    def absent(*args: Any, **_options: Any) -> Tensor:
        if not args:
            raise UserError("a block without positional inputs cannot be a stage's: set trainer.strategy: ddp")
        fill = float("nan") if dtype.is_floating_point else 0
        one = torch.full((1,) * (len(shape) + 1), fill, dtype=dtype, device=args[0].device)
        return one.expand(len(args[0]), *shape)

    return absent
