"""A checkpoint that a user names, looked at before anything is built."""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lit_fa.errors import UserError

WORDS = ("best", "last", "hpc")  # that Lightning takes in place of a path
_OPTION = "--ckpt_path"
_SEVERAL = ("amsgrad", "betas", "dampening", "momentum", "alpha", "rho", "nesterov")


def checked(path: str | Path, option: str = _OPTION) -> dict[str, Any]:
    """The content of a checkpoint of Lightning's; empty for one in many files or at an address.

    Raises:
        UserError: it is not there, a folder, torn, empty, or something else.
    """
    if "://" in str(path):
        return {}
    path = Path(path)
    if path.is_dir() and (path / "meta.pt").is_file():
        return {}
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise UserError(f"{option} {path}: {what}; give the path of a checkpoint (.ckpt)")
    try:
        found = torch.load(path, map_location="cpu", weights_only=False, mmap=zipfile.is_zipfile(path) or None)
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError, AttributeError, TypeError):
        raise UserError(f"{option} {path}: empty, torn or no checkpoint; give another one") from None
    if not isinstance(found, Mapping) or not {"state_dict", "pytorch-lightning_version"} <= found.keys():
        raise UserError(f"{option} {path}: no checkpoint of lit-fa fit (no state_dict in it); give one of its .ckpt")
    return dict(found)


def check_word(word: str, trainer: L.Trainer, command: str) -> None:
    """Refuse `best`, `last` and `hpc` where there is no such checkpoint.

    Raises:
        UserError: Lightning would fail, or go on without a checkpoint and say nothing.
    """
    keepers = [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]
    if word == "hpc":
        if trainer._checkpoint_connector._hpc_resume_path is None:
            raise UserError(
                f"{_OPTION} hpc: there is none in {trainer.default_root_dir}; give the path of a checkpoint"
            )
    elif not keepers:
        raise UserError(f"{_OPTION} {word}: the trainer has no ModelCheckpoint; give the path of a checkpoint")
    elif word == "best":
        raise UserError(f"{_OPTION} best: a new process knows of no best checkpoint; give its path")
    elif command != "fit" and not any(keeper._find_last_checkpoints(trainer) for keeper in keepers):
        raise UserError(f"{_OPTION} last: there is none yet; give the path of a checkpoint")


def check_optimizer(checkpoint: Mapping[str, Any], make: Callable[..., torch.optim.Optimizer]) -> None:
    """Refuse to go on with another kind of optimizer: torch would load its state without a word.

    Raises:
        UserError: the groups of the two have different options.
    """
    states = checkpoint.get("optimizer_states") or []
    if len(states) != 1:
        return
    there = states[0]["param_groups"][0]
    here = make([nn.Parameter(torch.zeros(1))]).param_groups[0]
    named = [name for name in _SEVERAL if (name in there) != (name in here)]
    apart = any(name in there for name in named) and any(name in here for name in named)
    decoupled = {group["decoupled_weight_decay"] for group in (there, here) if "decoupled_weight_decay" in group}
    if apart or len(decoupled) > 1:
        options = ", ".join(sorted(name for name in there if name in _SEVERAL))
        raise UserError(f"{_OPTION}: of another optimizer (with {options}); go on with the one it was trained with")
