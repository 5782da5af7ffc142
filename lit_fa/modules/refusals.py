"""An option of the trainer that a module refuses, and the conditions that several refusals share."""

from collections.abc import Callable
from typing import NamedTuple

import lightning as L

from lit_fa import lightning_privates as privates
from lit_fa.rules.base import LearningRule

Condition = Callable[[L.Trainer, L.LightningModule], bool]


class Refusal(NamedTuple):
    """One unsupported option or combination.

    Attributes:
        option: the option or callback, as in `docs/lightning.md`.
        applies: whether this trainer with this module uses it.
        message: of the error.
    """

    option: str
    applies: Condition
    message: str


def has(*kinds: type, exactly: bool = False) -> Condition:
    """Whether the trainer has a callback of one of these classes."""

    def applies(trainer: L.Trainer, module: L.LightningModule) -> bool:
        return any(type(c) in kinds if exactly else isinstance(c, kinds) for c in privates.callbacks_of(trainer))

    return applies


def federated(module: L.LightningModule) -> bool:
    """Whether the module is federated, so that a batch is a round."""
    return hasattr(module, "executor")


def rule_of(module: L.LightningModule) -> LearningRule:
    """The learning rule of the module."""
    rule = module.rule
    assert isinstance(rule, LearningRule)
    return rule
