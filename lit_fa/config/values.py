"""Checks of config values before anything is built.

Constructors check their own arguments. Here are the checks of all numbers and of the options of Lightning's trainer,
whose own errors come late and name no remedy.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from lit_fa.described import check_numbers
from lit_fa.errors import UserError, nearest
from lit_fa.parallel import strategy as _layer_parallel  # noqa: F401  registers its word

PROFILERS = ("simple", "advanced", "pytorch")
DIVIDING = ("fsdp", "deepspeed", "modelparallel", "model_parallel")  # strategies that divide weights
OURS = ("fsdp2", "fsdp2_file", "fullyshardedstrategy")  # that one which rules work with
TPU = ("xla", "single_xla", "tpu", "hpu")


def check_values(config: Mapping[str, Any]) -> None:
    """Refuse the first number that is nan, infinite or too large for 64 bits, and invalid options of the trainer.

    Args:
        config: of one run: seed_everything, trainer, model, data.

    Raises:
        UserError: such a value; the message names its option and the remedy.
    """
    _check_seed(config.get("seed_everything"))
    for part in ("trainer", "model", "data"):
        check_numbers(config.get(part), part)
    trainer = config.get("trainer") or {}
    for option, (valid, remedy) in TRAINER.items():
        if (value := trainer.get(option)) is not None and not valid(value):
            raise UserError(f"trainer.{option} is {value!r}: {remedy}")
    for valid, remedy in STRATEGIES:
        if (strategy := trainer.get("strategy")) is not None and not valid(strategy):
            raise UserError(f"trainer.strategy is {_shown(strategy)}: {remedy}")
    _check_devices(trainer)


def check_trains(config: Mapping[str, Any]) -> None:
    """Refuse a fit without any batch. (A run that only pretrains or only probes the head has `max_epochs: 0`.)"""
    trainer = config.get("trainer") or {}
    none = trainer.get("limit_train_batches") in (0, 0.0) and not trainer.get("overfit_batches")
    if none and 0 not in (trainer.get("max_epochs"), trainer.get("max_steps")) and not trainer.get("fast_dev_run"):
        raise UserError(
            "trainer.limit_train_batches is 0, so that nothing is trained: leave it out, or run lit-fa validate or test"
        )


def _check_seed(seed: Any) -> None:
    if isinstance(seed, int) and not 0 <= seed < 2**32:
        raise UserError(f"seed_everything is {seed}: write a whole number from 0 to 2**32 - 1")


def _check_devices(trainer: Mapping[str, Any]) -> None:
    """Refuse an accelerator that this machine does not have, and impossible numbers of devices."""
    accelerator, devices = trainer.get("accelerator", "auto"), trainer.get("devices", "auto")
    if isinstance(accelerator, str) and accelerator not in (*AcceleratorRegistry.available_accelerators(), *_WORDS):
        known = [name for name in (*_WORDS, *AcceleratorRegistry.available_accelerators()) if name != "tpu"]
        raise UserError(f"trainer.accelerator is '{accelerator}'; {nearest(accelerator, known)}")
    absent = (accelerator in ("gpu", "cuda") and not torch.cuda.is_available()) or accelerator == "tpu"
    absent = absent or (accelerator == "mps" and not torch.backends.mps.is_available())
    if absent and not (accelerator == "gpu" and torch.backends.mps.is_available()):
        raise UserError(f"trainer.accelerator is {accelerator}, which torch finds none of here: set cpu or auto")
    number = _number_of(devices)
    if number is not None and not (1 <= number <= MOST_DEVICES or (number == -1 and accelerator != "cpu")):
        raise UserError(f"trainer.devices is {devices!r}: write a number of devices from 1 on, or auto")


def _number_of(devices: Any) -> int | None:
    try:
        return int(devices) if isinstance(devices, int | str) else None
    except ValueError:
        return None


def _strategy(value: Any) -> bool:
    if not isinstance(value, str):
        return True
    return value in ("auto", "ddp") or value in StrategyRegistry.available_strategies()


def _share_or_number(value: Any) -> bool:
    return value >= 0 and (isinstance(value, int) or value <= 1)


def _positive_time(value: Any) -> bool:
    if isinstance(value, str):
        parts = value.split(":")
        return (
            len(parts) == 4
            and all(part.isascii() and part.isdigit() for part in parts)
            and any(int(part) for part in parts)
        )
    try:
        return timedelta(**value) > timedelta(0) if isinstance(value, Mapping) else True
    except TypeError:
        return False


def _interval(value: Any) -> bool:
    if isinstance(value, str):
        return _positive_time(value)
    return not isinstance(value, int | float) or _share_or_number(value)  # 0 is refused elsewhere


def _shown(strategy: Any) -> str:
    """The name of a strategy, or of its class."""
    chosen = strategy.get("class_path") if hasattr(strategy, "get") else None
    path = strategy if isinstance(strategy, str) else str(chosen or strategy)
    return path.rpartition(".")[2]


def _named_otherwise(*names: str) -> Callable[[Any], bool]:
    return lambda strategy: not any(name in _shown(strategy).lower() for name in names)


MOST_DEVICES = 4096
_WORDS = ("auto", "cpu", "gpu", "cuda", "mps")
_LIMIT = (_share_or_number, "write a share of the batches from 0 to 1, with a point, or a number of them")
_COUNT = (lambda value: value >= 0, "write 0 or a number above it")
_LENGTH = (lambda value: value >= -1, "write a number, or -1 for no limit")
_TIME = "write DD:HH:MM:SS, such as 00:01:30:00, or {hours: 1.5}, above zero"


# option of the trainer to the check of its value, and the remedy in the error message
TRAINER: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_nodes": (lambda value: value >= 1, "write a number of machines from 1 on"),
    "profiler": (
        lambda value: not isinstance(value, str) or value in PROFILERS,
        f"write {', '.join(PROFILERS[:-1])} or {PROFILERS[-1]}",
    ),
    "fast_dev_run": (lambda value: value >= 0, "write true, false or a number of batches"),
    "max_epochs": _LENGTH,
    "max_steps": _LENGTH,
    "min_epochs": _COUNT,
    "min_steps": _COUNT,
    "max_time": (_positive_time, _TIME),
    **{f"limit_{split}_batches": _LIMIT for split in ("train", "val", "test", "predict")},
    "overfit_batches": _LIMIT,
    "val_check_interval": (_interval, f"write a share of an epoch, a number of batches, or a time: {_TIME}"),
    "num_sanity_val_steps": _LENGTH,
    "log_every_n_steps": _COUNT,
    "reload_dataloaders_every_n_epochs": _COUNT,
    "gradient_clip_algorithm": (
        lambda value: value in ("norm", "value"),
        "set model.init_args.clip, and clip_by to norm or value",
    ),
}
STRATEGIES = (
    (
        lambda strategy: _shown(strategy).lower() in OURS or _named_otherwise(*DIVIDING)(strategy),
        "a rule reads whole weights by name, which this one divides: set ddp or auto, or fsdp2, which divides them too",
    ),
    (_named_otherwise(*TPU), "rules run on CPUs and GPUs: set ddp or auto"),
    (_strategy, "write auto, ddp, fsdp2 or single_device"),
)
