"""Loads a trained module from its checkpoint or from the folder of its run."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lit_fa.checkpoints import files as checkpoint_files
from lit_fa.checkpoints import sharded
from lit_fa.checkpoints.entries import wrong_entry
from lit_fa.described import construct, imported
from lit_fa.errors import UserError

if TYPE_CHECKING:  # importing the modules takes seconds
    from lit_fa.modules import EvaluatedClassifier

log = logging.getLogger(__name__)
LATER = ("optimizer", "scheduler")  # not needed before a fit


def load(path: str | Path, **given: object) -> "EvaluatedClassifier":
    """The trained module of a run, in evaluation mode, on the CPU.

    Args:
        path: a checkpoint; a folder, whose newest checkpoint is used; or a folder of `lit-fa push`.
        given: arguments of the module's constructor that a checkpoint cannot store (``network=``), or that replace the
            stored ones.

    Raises:
        UserError: no checkpoint, one that cannot be read, or an argument that must be given.

    >>> import tempfile, lightning as L
    >>> from lit_fa.datamodules import Synthetic
    >>> from lit_fa.modules import Classifier
    >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trainer = L.Trainer(max_steps=1, default_root_dir=folder, accelerator="cpu", **quiet)
    ...     trainer.fit(Classifier("mlp", network_args={"hidden": [8]}), Synthetic(n_train=128, n_test=8))
    ...     load(folder).network(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    from lit_fa.checkpoints import pushed  # it needs this module

    if pushed.is_pushed(Path(path)):
        return pushed.load_pushed(Path(path), given)
    file = newest_checkpoint(Path(path))
    checkpoint = read_checkpoint(file)
    kind = imported(_constructor(checkpoint, file)["class_path"])
    return kind.load_from_checkpoint(file, map_location="cpu", **given).eval()


def newest_checkpoint(path: Path) -> Path:
    """`path` itself, or the newest checkpoint in a folder that is none itself."""
    if not os.path.isdir(path) or sharded.is_sharded(path):
        return path
    files = sorted(path.rglob("*.ckpt"), key=lambda file: (file.stat().st_mtime, file.name))
    if not files:
        raise UserError(f"{path} holds no checkpoint (*.ckpt): give a run's folder, or a checkpoint")
    log.info("loading %s", files[-1])
    return files[-1]


def read_checkpoint(path: str | Path, map_location: Any = "cpu", weights_only: bool = True) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        UserError: the file does not exist or is not a checkpoint.
    """
    if not checkpoint_files.is_checkpoint(path):
        raise UserError(f"there is no checkpoint {path}")
    try:
        checkpoint = checkpoint_files.read(path, map_location, weights_only=weights_only)
    except checkpoint_files.UnreadableError as error:
        if error.unsafe:
            raise UserError(f"{error}: if you trust it, pass weights_only=False") from None
        raise
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} holds no state of a module: give a checkpoint of lit-fa fit")
    if name := wrong_entry(checkpoint):
        raise UserError(f"{path} is no checkpoint of lit-fa fit ({name} is of another kind): give another one")
    return checkpoint


def arguments(checkpoint: Mapping[str, Any], path: str | Path, given: Mapping[str, object]) -> dict[str, Any]:
    """Arguments of the module's constructor: `given`, and the stored ones without sources of initial weights."""
    plain = {} if given and "constructor" not in checkpoint else _constructor(checkpoint, path)["init_args"]
    args = dict(given)
    for name, value in plain.items():
        if name in given:
            continue
        try:
            args[name] = construct(value)
        except UserError as error:
            if name in LATER:
                args[name] = forgotten
                continue
            raise UserError(f"{path} does not hold {name} ({error}): pass {name}= to load") from error
    loses = {"pretrained": False, "weights": None}
    return args | {name: value for name, value in loses.items() if name in plain and name not in given}


def forgotten(*_: object) -> None:
    """Replaces an optimiser or a schedule that the checkpoint could not store."""
    raise UserError("the checkpoint does not hold the optimiser or its schedule: pass optimizer=, scheduler= to load")


def fill(module: torch.nn.Module, checkpoint: Mapping[str, Any], path: str | Path, strict: bool = True) -> None:
    """Load the state into the module, at the precision in which it was saved.

    Raises:
        UserError: the state belongs to another network or another rule.
    """
    state = checkpoint["state_dict"]
    own = {name: p.dtype for name, p in module.named_parameters()}
    saved = next((state[name].dtype for name, dtype in own.items() if name in state and dtype.is_floating_point), None)
    if saved is not None and saved != next(iter(own.values())):
        module.to(saved)
    try:
        module.load_state_dict(state, strict=strict)
    except RuntimeError as error:
        names = [name for name in sorted({*state} ^ {*module.state_dict()}) if not name.startswith("metrics.")]
        what = f"; only one of them has {', '.join(names[:3])}" if names else ""
        raise UserError(f"{path} is of another network or another rule{what}: load it with its own") from error


def _constructor(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    if not checkpoint.get("constructor"):
        raise UserError(f"{path} does not say how its module was made: pass its arguments to load_from_checkpoint")
    return checkpoint["constructor"]
