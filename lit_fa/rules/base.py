r"""What a learning rule is: a way of building one scalar whose ordinary autograd gradient is the prescribed update.

Two moves suffice for the papers: cut a path, and add a path that carries only gradient (`functional.credit`). Since
the result is plain differentiable torch, `backward`, DDP, mixed precision, compilation and `torch.func` work on every
rule with no special case. Consequences for who writes one:

* Sum local losses into one scalar; several backward passes a step are for `stream` alone, on one device.
* A rule that insists on its own arithmetic returns `functional.credit.linear_surrogate`; it never assigns `.grad`,
  which DDP would not reduce.
* Whatever must be there tomorrow is a parameter or a buffer. Whatever is random is drawn on the CPU from the rule's own
  seed, so that devices and ranks agree.
* A rule is attached after pretrained weights and adapters are in place and before the optimiser exists.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from lit_fa.described import Described, as_options
from lit_fa.errors import UserError, not_one_of
from lit_fa.layers.coverage import Coverage, coverage
from lit_fa.layers.observing import observing, unfrozen

Criterion = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]
Tensors = dict[str, Tensor]
Uncovered = Literal["raise", "warn", "allow"]
T = TypeVar("T")
Method = TypeVar("Method", bound=Callable)


class Halves(NamedTuple, Generic[T]):
    """Values by name, in the two halves of a learner.

    Attributes:
        network: by the names of the network's own parameters or buffers.
        rule: by the names of the rule's own parameters or buffers.
    """

    network: dict[str, T]
    rule: dict[str, T]


State = Halves[Tensor]


class Does(Enum):
    """What a rule does besides ordinary backpropagation; the value is the method that does it.

    `SUMS` has no method: a rule whose scalar is a sum over the batch's samples, at least in part, sets `sums`.
    """

    PREPARES = "prepare"
    BUILDS = "surrogate"
    STREAMS = "stream"
    EDITS = "edit_gradients"
    EVOLVES = "after_step"
    RESHAPES = "reshape"
    PREDICTS = "predict"
    COMPARES = "compares_before"
    SUMS = "sums"


def provided(condition: Callable[["LearningRule"], bool]) -> Callable[[Method], Method]:
    """Mark a method of a rule that has an effect only if `condition(rule)` holds, because of the rule's options."""

    def mark(method: Method) -> Method:
        method.condition = condition
        return method

    return mark


class Surrogate(NamedTuple):
    """One training step of a rule.

    Attributes:
        value: the scalar whose gradient is the update.
        loss: what the paper plots, detached.
        logits: (n, c) network output, detached.
    """

    value: Tensor
    loss: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    In a federation an epoch is a round. A client numbers its steps so that no two rounds share a number, and their
    total is None.

    Attributes:
        step: optimiser steps taken.
        epoch: that runs, from 0 on.
        total_steps: optimiser steps of the whole run; None where that is not known.
        total_epochs: epochs that the whole run begins; None where that is not known.
        epoch_ends: this is the epoch's last step.
    """

    step: int
    epoch: int = 0
    total_steps: int | None = None
    total_epochs: int | None = None
    epoch_ends: bool = False

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 to 1: of its steps, or of its rounds; 0 where the length is not known."""
        done, of = (self.step, self.total_steps) if self.total_steps else (self.epoch, self.total_epochs)
        return min(done / of, 1.0) if of else 0.0


class LearningRule(Described, nn.Module):
    """Methods whose defaults do nothing special; by itself this is backpropagation.

    Which of them a class overrides says what the rule does, see `does`; there is nothing to declare.

    Class attributes:
        paper: citation.
        overrides: what the class does by the methods that it overrides, whatever its options.
        sums: the scalar is a sum over the batch's samples, at least in part, and not a mean.
        compares_samples: options, as ``name: value``, that compare a batch's samples with one another, so that two
            halves of a batch are not the whole.
    """

    paper: ClassVar[str] = ""
    overrides: ClassVar[frozenset[Does]] = frozenset()
    sums: bool = False

    def __init_subclass__(cls, **options: object):
        """Note which methods the class overrides."""
        super().__init_subclass__(**options)
        own = {does: getattr(cls, does.value, None) for does in Does if does is not Does.SUMS}
        cls.overrides = frozenset(does for does, method in own.items() if method is not _default(does))

    @property
    def does(self) -> frozenset[Does]:
        """What the rule does under its options.

        >>> class Halving(LearningRule):
        ...     def edit_gradients(self, params, grads, progress):
        ...         return Halves({name: grad / 2 for name, grad in grads.network.items()}, {})
        >>> Halving().does
        frozenset({<Does.EDITS: 'edit_gradients'>})
        """
        conditions = {does: getattr(getattr(type(self), does.value), "condition", None) for does in self.overrides}
        found = {does for does, condition in conditions.items() if condition is None or condition(self)}
        return frozenset(found | {Does.SUMS} if self.sums else found)

    def extra_repr(self) -> str:
        """The options, which `repr` shows.

        >>> from lit_fa.rules import SVDBackprop
        >>> repr(SVDBackprop(rank=4))[:20]
        'SVDBackprop(rank=4, '
        """
        return as_options(self.constructor.get("init_args", {}))

    @property
    def compares_samples(self) -> list[str]:
        """See the class."""
        return []

    @property
    def follows_length(self) -> list[str]:
        """Options, as ``name: value``, that follow the length of the run, and so need one that is known beforehand."""
        return []

    def parts(self, network: nn.Module, example: Tensor) -> Halves[int]:
        """Parameter to the number of the local loss that it alone learns from.

        Empty if one loss, or one error, serves all. Called after `install`; `clip` bounds the norm of each part.
        """
        return Halves({}, {})

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Change `network` once, before the optimiser exists; the only method that may touch modules.

        Args:
            network: with its pretrained weights and adapters in place.
            example: (n, ...) inputs, n >= 2, whose values do not matter.
            criterion: (logits, targets) to a scalar, averaged over the batch.

        Returns:
            What the rule reaches.
        """
        return self.inspect(network, example, criterion)

    def prepare(self, network: nn.Module, batches: Iterable[Batch], criterion: Criterion) -> dict[str, float]:
        """Change parameters and buffers in place, once, before the first step of a fresh run; never of a resumed one.

        Every rank iterates over whole batches; tensors and numbers are then broadcast from rank 0.

        Args:
            network: installed, on its device; its head may just have been probed.
            batches: of training, on the device, to iterate over as often as need be. Random state does not matter.
            criterion: as in `install`.

        Returns:
            Key to number, logged once.
        """
        return {}

    def surrogate(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Surrogate:
        """The scalar whose gradient is the update, for inputs (n, ...) and targets (n,). Pure."""
        inputs, targets = batch
        logits = network(inputs)
        loss = criterion(logits, targets)
        return Surrogate(loss, loss.detach(), logits.detach())

    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Callable) -> Surrogate:
        """As `surrogate`, but calls `backward` block by block, so that one block's activations live at a time."""
        raise UserError(f"{type(self).__name__} has no cuts to stream; use stream: false")

    def edit_gradients(self, params: State, grads: State, progress: Progress) -> State:
        """The gradients that change between the backward pass and the optimiser's step; returns only those.

        None as a gradient: the optimiser leaves the parameter alone. Linear edits commute with DDP's average. Pure.

        Args:
            params: trainable parameters that have a gradient.
            grads: of the shapes of `params`.
            progress: before the step.
        """
        return Halves({}, {})

    def after_step(self, params: State, buffers: State, progress: Progress) -> tuple[State, State]:
        """Parameters and buffers that change after an optimiser step; returns only those. Pure."""
        return Halves({}, {}), Halves({}, {})

    def evolving(self, buffers: State) -> State:
        """The buffers that `after_step` may change; all of them, unless a rule says which."""
        return buffers

    def reshape(self, network: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Change shapes of parameters, buffers and the optimiser's state between two epochs; on one device only."""

    def on_round_start(self, params: State, buffers: State, number: int) -> State:
        """Buffers that change when a federated client receives the server's parameters in round `number`. Pure.

        They follow from the parameters, the rule's seed and the round, so they are not sent.
        """
        return Halves({}, {})

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """(n, ...) inputs to (n, c) logits."""
        return network(inputs)

    @property
    def links(self) -> Tensors:
        """Block to the matrix (c, *block) that carries the error at the logits straight to it; empty without such."""
        return {}

    @property
    def cuts(self) -> list[str]:
        """Modules at whose output the rule puts an error of its own in place of the loss's; "" is the whole network.

        By default the modules of `taps`, if the rule has them. A rule with its own `surrogate` and no taps counts as
        replacing the error everywhere, unless it overrides this property.
        """
        if (taps := getattr(self, "taps", None)) is not None:
            return [*taps.names]
        return [""] if Does.BUILDS in self.does else []

    def inspect(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Which tensors of `network` the surrogate's gradient reaches, frozen ones counted as trainable."""
        with unfrozen(network) as frozen, observing(network), torch.enable_grad():
            classes = network(example).shape[-1]
            targets = torch.arange(len(example), device=example.device) % classes
            batch = (example, targets)
            found = coverage(network, lambda: self.surrogate(network, batch, criterion).value, batch, frozen)
        return Coverage(found.transported, [name for name in found.unreached if name not in frozen])


def _default(does: Does) -> Callable | None:
    """The base class's method; None for a method that only some rules have."""
    return getattr(LearningRule, does.value, None)


def refuse(what: str, names: list[str], remedy: str, *, uncovered: Uncovered) -> None:
    """Raise, warn or stay silent about tensors that a rule does not reach.

    Args:
        what: the sentence before the names.
        names: tensors; nothing happens when there are none.
        remedy: what the user can do.
        uncovered: `raise`, `warn` or `allow`.

    Raises:
        UserError: as asked for; or `uncovered` is none of the three.
    """
    if uncovered not in get_args(Uncovered):
        raise UserError(not_one_of("uncovered", get_args(Uncovered), uncovered))
    if not names or uncovered == "allow":
        return
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    message = f"{what}: {shown}. {remedy}"
    if uncovered == "raise":
        raise UserError(message + " To train them all the same set the rule's uncovered: allow.")
    warnings.warn(message, stacklevel=3)
