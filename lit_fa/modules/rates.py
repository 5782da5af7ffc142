"""Valid ranges of the options of optimisers and schedules, also of classes that do not check them."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer, SparseAdam

from lit_fa.errors import UserError

T = TypeVar("T")
Range = tuple[Callable[[float], bool], str]  # whether a number is valid, and the range in words
ABOVE: Range = (lambda value: value > 0, "above 0")
LEAST_0: Range = (lambda value: value >= 0, "at least 0")
LEAST_1: Range = (lambda value: value >= 1, "at least 1")
BELOW_1: Range = (lambda value: 0 <= value < 1, "from 0 on and below 1")
TO_1: Range = (lambda value: 0 <= value <= 1, "from 0 to 1")

# entries of a parameter group, by torch's names
_NONNEGATIVE = ("max_lr", "lr", "initial_lr", "min_lr", "weight_decay", "eps", "lr_decay", "momentum_decay", "lambd")
OF_GROUPS: dict[str, Range] = {
    **dict.fromkeys(_NONNEGATIVE, LEAST_0),
    **dict.fromkeys(("momentum", "base_momentum", "max_momentum", "betas"), BELOW_1),
    "dampening": TO_1,
    "step_sizes": ABOVE,
}
# attributes of a schedule
OF_SCHEDULES: dict[str, Range] = {
    **dict.fromkeys(("step_size", "T_max", "T_0", "total_iters"), LEAST_1),
    **dict.fromkeys(("eta_min", "gamma", "factor", "power", "patience", "cooldown", "threshold"), LEAST_0),
    **dict.fromkeys(("eps", "milestones", "min_lrs", "base_lrs"), LEAST_0),
}


def constructed(make: Callable[[Any], T], given: Any, option: str) -> T:
    """`make(given)`, with errors of another package's constructor as one line.

    Raises:
        UserError: names the option and the class, with the message of the class.
    """
    try:
        return make(given)
    except (
        ArithmeticError,
        AssertionError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        if getattr(error, "user_error", False):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "") or type(error).__name__
        if isinstance(error, ArithmeticError | KeyError):
            reason = f"{type(error).__name__}: {reason}"
        raise UserError(f"model.init_args.{option}: {_named(make)}: {reason}; {_REMEDY[option]}") from error


def check_groups(optimizer: Optimizer, scheduler: Any = None) -> None:
    """Refuse an optimiser with options out of range, or one that needs sparse gradients.

    Args:
        optimizer: as constructed, or as changed by a schedule.
        scheduler: the schedule that changed it.

    Raises:
        UserError: names the option and its range.
    """
    name = type(optimizer).__name__
    where = f"model.init_args.optimizer: {name}"
    where = where if scheduler is None else f"model.init_args.scheduler: {type(scheduler).__name__}"
    if isinstance(optimizer, SparseAdam):
        raise UserError(f"model.init_args.optimizer: {name} takes sparse gradients, and ours are dense: take Adam")
    for group in optimizer.param_groups:
        of_rmsprop = {"alpha": TO_1} if name == "RMSprop" else {}
        _check_ranges(group, OF_GROUPS | of_rmsprop, where)
        if group.get("differentiable"):
            raise UserError(f"model.init_args.optimizer: {name} with differentiable: true takes no step: leave it out")
        if group.get("capturable") and any(p.device.type == "cpu" for p in group["params"]):
            raise UserError(f"model.init_args.optimizer: {name} with capturable: true needs a GPU: leave it out")


def check_schedule(scheduler: Any) -> None:
    """Refuse a schedule with options out of range, also within a composed schedule."""
    _check_ranges(vars(scheduler), OF_SCHEDULES, f"model.init_args.scheduler: {type(scheduler).__name__}")
    for inner in getattr(scheduler, "_schedulers", ()):
        check_schedule(inner)


def check_rates(optimizer: Optimizer, scheduler: Any) -> None:
    """Refuse a learning rate that a schedule has made negative or not finite.

    Raises:
        UserError: names the schedule and the rate.
    """
    for group in optimizer.param_groups:
        rate = group["lr"]
        if isinstance(rate, int | float) and not (math.isfinite(rate) and rate > -1e-12):
            raise UserError(
                f"model.init_args.scheduler: {type(scheduler).__name__} made a learning rate of {rate:g}: give it "
                "options that keep the rate at 0 or above"
            )


def _check_ranges(numbers: Mapping[str, Any], ranges: Mapping[str, Range], where: str) -> None:
    for option, (valid, words) in ranges.items():
        for number in _numbers(numbers.get(option)):
            if not (math.isfinite(number) and valid(number)):
                raise UserError(f"{where}: {option} is {words}, not {number:g}")


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in a value or its entries; tensors are left out, because reading them waits for the device."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif not isinstance(value, str | torch.Tensor) and hasattr(value, "__iter__"):
        yield from (number for entry in value for number in _numbers(entry))


def _named(make: Any) -> str:
    """The name of the function, or of the class within the parser's partial."""
    kinds = [kind for kind in (*getattr(make, "args", ()), getattr(make, "func", make)) if hasattr(kind, "__name__")]
    return kinds[0].__name__ if kinds else type(make).__name__


_REMEDY = {
    "optimizer": "mend its init_args, or take another class of torch.optim",
    "scheduler": "mend its init_args, or take another class of torch.optim.lr_scheduler",
}
