r"""The base class of learning rules: a rule builds one scalar whose ordinary autograd gradient is its update.

Two operations suffice for the papers: remove a path from the backward pass, and add a path to the backward pass only
(`functional.credit`). The result is differentiable torch code, so `backward`, DDP, mixed precision, compilation and
`torch.func` need no special case. For the author of a rule this means:

* Sum local losses into one scalar. Only `stream` has several backward passes per step, on one device.
* A rule that computes its update explicitly returns `functional.credit.linear_surrogate`. It does not assign `.grad`,
  which DDP would not reduce.
* State is a parameter or a buffer, so that it is in the checkpoint. Random numbers are drawn on the CPU from the rule's
  own seed, so that devices and ranks agree.
* A rule is installed after pretrained weights and adapters are loaded and before the optimiser is created.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from lit_fa.described import Described, as_options
from lit_fa.errors import UserError, not_one_of
from lit_fa.functional.criteria import Criterion as Criterion
from lit_fa.layers.coverage import Coverage, coverage
from lit_fa.layers.observing import observing, unfrozen

Backward = Callable[[Tensor], None]  # runs the backward pass of a scalar, or collects it
Batch = tuple[Tensor, Tensor]
Tensors = dict[str, Tensor]
Uncovered = Literal["raise", "warn", "allow"]
UNUSED = "The loss does not depend on them."
T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])


class Halves(NamedTuple, Generic[T]):
    """Values by name, in the two halves of a learner.

    Attributes:
        network: by the names of the network's own parameters or buffers.
        rule: by the names of the rule's own parameters or buffers.
    """

    network: dict[str, T]
    rule: dict[str, T]


State = Halves[Tensor]
Edits = Halves[Tensor | None]


class Does(Enum):
    """What a rule does besides ordinary backpropagation; the value is the method that does it.

    `SUMS` has no method: a rule sets `sums` if its scalar, or a part of it, is a sum over the samples of the batch.
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


def provided(condition: Callable[[Any], bool]) -> Callable[[Method], Method]:
    """Mark a method of a rule that has an effect only if `condition(rule)` holds, because of the rule's options."""

    def mark(method: Method) -> Method:
        vars(method)["condition"] = condition
        return method

    return mark


class Surrogate(NamedTuple):
    """One training step of a rule.

    Attributes:
        value: the scalar whose gradient is the update.
        loss: the loss that the paper plots, detached.
        logits: (n, c) network output, detached.
    """

    value: Tensor
    loss: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Progress:
    """The progress of training.

    In federated training an epoch is a round. The steps of a client have numbers that differ from round to round, and
    their total is None.

    Attributes:
        step: number of finished optimiser steps.
        epoch: the current epoch, from 0.
        total_steps: optimiser steps of the whole run; None if unknown.
        total_epochs: epochs that the whole run begins; None if unknown.
        epoch_ends: whether this step is the last of its epoch.
    """

    step: int
    epoch: int = 0
    total_steps: int | None = None
    total_epochs: int | None = None
    epoch_ends: bool = False

    @property
    def fraction(self) -> float:
        """The finished share of the run's steps, or else of its epochs, 0 to 1; 0 if the length is unknown."""
        done, total = (self.step, self.total_steps) if self.total_steps else (self.epoch, self.total_epochs)
        return min(done / total, 1.0) if total else 0.0

    def turn(self, blocks: int) -> int:
        """The number of the block that learns, if the blocks learn one after another for equal shares of the run."""
        return min(int(self.fraction * blocks), blocks - 1)


class LearningRule(Described, nn.Module):
    """Base class of all rules. Its defaults are backpropagation.

    `does` follows from the methods that a class overrides.

    Class attributes:
        paper: citation.
        overrides: what the class does according to the methods that it overrides, for any options.
        sums: the scalar, or a part of it, is a sum over the samples of the batch, not a mean.
        reads_all: the scalar needs weights after the forward pass of their block, so a sharded network is gathered as a
            whole, not block by block.
    """

    paper: ClassVar[str] = ""
    overrides: ClassVar[frozenset[Does]] = frozenset()
    sums: bool = False
    reads_all: bool = False

    def __init_subclass__(cls, **options: object):
        """Record which methods the class overrides."""
        super().__init_subclass__(**options)
        own = {does: getattr(cls, does.value, None) for does in Does if does is not Does.SUMS}
        cls.overrides = frozenset(does for does, method in own.items() if method is not _default(does))

    @property
    def does(self) -> frozenset[Does]:
        """What the rule does with its options.

        >>> class Halving(LearningRule):
        ...     def edit_gradients(self, params, grads, progress):
        ...         return Halves({name: grad / 2 for name, grad in grads.network.items()}, {})
        >>> Halving().does
        frozenset({<Does.EDITS: 'edit_gradients'>})
        """
        conditions = {does: getattr(getattr(type(self), does.value), "condition", None) for does in self.overrides}
        active = {does for does, condition in conditions.items() if condition is None or condition(self)}
        return frozenset(active | {Does.SUMS} if self.sums else active)

    def extra_repr(self) -> str:
        """The options, for `repr`.

        >>> from lit_fa.rules import SVDBackprop
        >>> repr(SVDBackprop(rank=4))[:20]
        'SVDBackprop(rank=4, '
        """
        return as_options(self.constructor.get("init_args", {}))

    @property
    def compares_samples(self) -> list[str]:
        """Options, as ``name: value``, that compare the samples of a batch, so that a batch cannot be split."""
        return []

    @property
    def follows_length(self) -> list[str]:
        """Options, as ``name: value``, that depend on the length of the run, which must then be known in advance."""
        return []

    @property
    def measured(self) -> list[str]:
        """The rule's own parameters that are measurements: after the backward pass each is set to its gradient.

        If the scalar contains <p, stop(v)>, p becomes the mean of v over ranks and accumulated batches. No optimiser
        has p; a federated server averages it.
        """
        return []

    def parts(self, network: nn.Module, example: Tensor) -> Halves[int]:
        """Parameter to the number of the local loss that trains it; `clip` bounds the gradient norm of each part.

        Empty if one loss or one error trains all parameters. Called after `install`.
        """
        return Halves({}, {})

    def install(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """Change `network` once, before the optimiser is created; the only method that may change modules.

        Args:
            network: with its pretrained weights and adapters.
            example: (n, ...) inputs, n >= 2, whose values have no meaning.
            criterion: (logits, targets) to a scalar, averaged over the batch.

        Returns:
            The tensors that the rule does not treat.

        Raises:
            UserError: the rule does not fit the network.
        """
        return self.inspect(network, example, criterion)

    def prepare(self, network: nn.Module, batches: Iterable[Batch], criterion: Criterion) -> dict[str, float]:
        """Change parameters and buffers in place, once, before the first step; not when a run is resumed.

        Every rank iterates over whole batches; tensors and numbers are then broadcast from rank 0.

        Args:
            network: after `install`, on its device, and after linear probing of the head if there is any.
            batches: training batches on the device; any number of passes. Random state has no effect.
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

    def stream(self, network: nn.Module, batch: Batch, criterion: Criterion, backward: Backward) -> Surrogate:
        """As `surrogate`, but calls `backward` for each block, so that memory has the activations of one block.

        Raises:
            UserError: the rule has no block boundaries.
        """
        raise UserError(f"{type(self).__name__} has no block boundaries to stream; use stream: false")

    def edit_gradients(self, params: State, grads: State, progress: Progress) -> Edits:
        """The gradients that change between the backward pass and the optimiser step; returns only those.

        None as a gradient: the optimiser does not update the parameter. Linear edits commute with DDP's average. Pure.

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
        """The buffers that `after_step` may change; by default all."""
        return buffers

    def reshape(self, network: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Change shapes of parameters, buffers and optimiser state between two epochs; on one device only."""

    def on_round_start(self, params: State, buffers: State, number: int) -> State:
        """Buffers that change when a federated client receives the server's parameters in round `number`. Pure.

        They follow from the parameters, the rule's seed and the round, so they are not sent.
        """
        return Halves({}, {})

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """(n, ...) inputs to (n, c) logits."""
        return network(inputs)

    @property
    def links(self) -> Mapping[str, Tensor]:
        """Block to its direct feedback matrix (c, *block); empty if the rule has none."""
        return {}

    @property
    def cuts(self) -> list[str]:
        """Modules at whose output the rule replaces the error of the loss; "" is the whole network.

        By default the modules of `taps`, if the rule has them. A rule with its own `surrogate` and without taps
        replaces the error everywhere, unless it overrides this property.
        """
        if (taps := getattr(self, "taps", None)) is not None:
            return [*taps.names]
        return [""] if Does.BUILDS in self.does else []

    def inspect(self, network: nn.Module, example: Tensor, criterion: Criterion) -> Coverage:
        """The trainable tensors of `network` that the rule does not treat; error passes through frozen ones as well."""
        with unfrozen(network) as frozen, observing(network), torch.enable_grad():
            classes = network(example).shape[-1]
            targets = torch.arange(len(example), device=example.device) % classes
            batch = (example, targets)
            all_tensors = coverage(network, lambda: self.surrogate(network, batch, criterion).value, batch, frozen)
        return Coverage(all_tensors.transported, [name for name in all_tensors.unreached if name not in frozen])


def _default(does: Does) -> Callable[..., Any] | None:
    """The method of the base class; None for a method that only some rules have."""
    return getattr(LearningRule, does.value, None)


def refuse(what: str, names: list[str], remedy: str, *, uncovered: Uncovered) -> None:
    """Raise an error or a warning about tensors that a rule does not treat, or do nothing.

    Args:
        what: the beginning of the message, before the names.
        names: of the tensors; if empty, nothing happens.
        remedy: what the user can do.
        uncovered: `raise`, `warn` or `allow`.

    Raises:
        UserError: if `uncovered` is `raise`, or none of the three.
    """
    if uncovered not in get_args(Uncovered):
        raise UserError(not_one_of("uncovered", get_args(Uncovered), uncovered))
    if not names or uncovered == "allow":
        return
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    message = f"{what}: {shown}. {remedy}"
    if uncovered == "raise":
        raise UserError(message + " To train them nevertheless, set the rule's uncovered: allow.")
    warnings.warn(message, stacklevel=3)
