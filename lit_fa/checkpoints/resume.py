"""Checks of the checkpoints that a run resumes from, the user's and its own, before anything is built."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lit_fa import lightning_privates as privates
from lit_fa.checkpoints.entries import RESUMED, wrong_entry
from lit_fa.checkpoints.files import UnreadableError, is_checkpoint, read, set_aside
from lit_fa.errors import UserError

log = logging.getLogger(__name__)  # a table's worker shows these messages in the line of its cell
WORDS = ("best", "last", "hpc")  # words that Lightning accepts in place of a path
_OPTION = "--ckpt_path"
_SEVERAL = ("amsgrad", "betas", "dampening", "momentum", "alpha", "rho", "nesterov")
_TRUSTED = "where you trust it, lit-fa fit, validate, test and predict read it with --weights_only false"


def checked(path: str | Path, option: str = _OPTION, *, weights_only: bool = True) -> dict[str, Any]:
    """The content of a checkpoint named by the user; empty for one at a remote address.

    Raises:
        UserError: it does not exist, is a folder, incomplete, damaged, not a checkpoint, or would execute code.
    """
    if "://" in str(path):
        return {}
    path = Path(path)
    if not is_checkpoint(path):
        what = "is a folder" if os.path.isdir(path) else "there is no such file"
        raise UserError(f"{option} {path}: {what}; give the path of a checkpoint (.ckpt)")
    try:
        return _content(path, weights_only=weights_only)
    except UnreadableError as error:
        remedy = _TRUSTED if error.unsafe else "give another one"
        raise UserError(f"{option} {path}: {error.reason}; {remedy}") from None


def own(path: Path) -> Path | None:
    """A checkpoint that this program has written for itself, or None if there is none.

    If it cannot be read it is renamed, with a warning.
    """
    if not os.path.lexists(path):
        return None
    try:
        if not is_checkpoint(path):
            raise UnreadableError(path, "no file")
        _content(path)
    except UnreadableError as error:
        give_up(path, error.reason)
        return None
    return path


def give_up(path: Path, reason: str) -> None:
    """Rename a checkpoint that cannot be used, with a warning that the run starts from the beginning."""
    log.warning("%s cannot be used (%s): renamed to %s, the run begins afresh", path, reason, set_aside(path).name)


def _content(path: Path, *, weights_only: bool = True) -> dict[str, Any]:
    content = read(path, weights_only=weights_only, mmap=True)
    if not isinstance(content, Mapping) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise UnreadableError(path, "no checkpoint of lit-fa fit (no state_dict in it)")
    if name := wrong_entry(content):
        raise UnreadableError(path, f"no checkpoint of lit-fa fit ({name} is of another kind)")
    return dict(content)


def check_word(word: str, trainer: L.Trainer) -> None:
    """Refuse `best`, `last` and `hpc` if there is no such checkpoint.

    Raises:
        UserError: there is none; Lightning would fail, or silently start without a checkpoint.
    """
    keepers = [callback for callback in privates.callbacks_of(trainer) if isinstance(callback, ModelCheckpoint)]
    if word == "hpc":
        if privates.slurm_checkpoint(trainer) is None:
            raise UserError(
                f"{_OPTION} hpc: there is none in {trainer.default_root_dir}; give the path of a checkpoint"
            )
    elif not keepers:
        raise UserError(f"{_OPTION} {word}: the trainer has no ModelCheckpoint; give the path of a checkpoint")
    elif word == "best":
        raise UserError(f"{_OPTION} best: a new process knows of no best checkpoint; give its path")
    elif not any(privates.last_checkpoints(keeper, trainer) for keeper in keepers):
        raise UserError(f"{_OPTION} last: there is none yet; give the path of a checkpoint")


def meant(word: str | None, trainer: L.Trainer) -> dict[str, Any]:
    """The content of the checkpoint that a word means, or without one that of a job which Slurm has queued again.

    Args:
        word: last, hpc or None, after `check_word`.
        trainer: that will load it; empty if there is none to load.
    """
    path: str | None = None
    if word == "last":
        keepers = [callback for callback in privates.callbacks_of(trainer) if isinstance(callback, ModelCheckpoint)]
        found = {path for keeper in keepers for path in privates.last_checkpoints(keeper, trainer)}
        path = max(sorted(found), key=os.path.getmtime)
    elif word == "hpc" or (word is None and SLURMEnvironment.detect()):
        path = privates.slurm_checkpoint(trainer)
    return {} if path is None else checked(path)


def check_complete(checkpoint: Mapping[str, Any]) -> None:
    """Refuse to resume a fit from weights alone, as a ModelCheckpoint with `save_weights_only` keeps them.

    Args:
        checkpoint: its content; an empty one, as of a run that begins, is not checked.

    Raises:
        UserError: the file lacks what the optimiser, the schedules or the loops go on from.
    """
    missing = [name for name in RESUMED if not checkpoint.get(name) and checkpoint.get(name) != []]
    if checkpoint and missing:
        raise UserError(
            f"{_OPTION}: the checkpoint has no {', '.join(missing)}, as with save_weights_only, so that no fit can go "
            "on from it; begin a new run from its weights (model.init_args.weights)"
        )


def check_optimizer(checkpoint: Mapping[str, Any], make: Callable[..., torch.optim.Optimizer]) -> None:
    """Refuse to resume with another kind of optimiser, whose state torch would load without an error.

    Raises:
        UserError: the parameter groups of the two have different options.
    """
    states = checkpoint.get("optimizer_states") or []
    if checkpoint and len(states) != 1:
        raise UserError(f"{_OPTION}: of {len(states)} optimizers, and this run has one; give another checkpoint")
    if not states:
        return
    there = states[0]["param_groups"][0]
    here = make([nn.Parameter(torch.zeros(1))]).param_groups[0]
    named = [name for name in _SEVERAL if (name in there) != (name in here)]
    apart = any(name in there for name in named) and any(name in here for name in named)
    decoupled = {group["decoupled_weight_decay"] for group in (there, here) if "decoupled_weight_decay" in group}
    if apart or len(decoupled) > 1:
        options = ", ".join(sorted(name for name in there if name in _SEVERAL))
        raise UserError(f"{_OPTION}: of another optimizer (with {options}); go on with the one it was trained with")
