"""What the callbacks that draw share: folder, note, and a choice of layers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import lightning as L

from lit_fa.rules.learner import Learner

T = TypeVar("T")


def folder_of(trainer: L.Trainer, dirpath: str | None) -> Path:
    """Where a run's figures go: `dirpath`, or `figures` in the log folder. All ranks must call it."""
    log_dir = trainer.log_dir
    return Path(dirpath or Path(log_dir or trainer.default_root_dir) / "figures")


def note_of(learner: Learner) -> str:
    """`one run, FeedbackAlignment, seed 3`."""
    return f"one run, {type(learner.rule).__name__}, seed {os.environ.get('PL_GLOBAL_SEED', 'not set')}"


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spaced, the first and the last among them.

    >>> evenly(range(50), 3)
    [0, 24, 49]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]
