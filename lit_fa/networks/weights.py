"""Loads weights from a file into a network; a head for another number of classes is not loaded."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from lit_fa.checkpoints.files import UnreadableError, read
from lit_fa.errors import UserError

log = logging.getLogger(__name__)
PREFIXES = ("learner.network.", "network.")  # of a Classifier's checkpoint, and of a learner's state


def load_weights(network: nn.Module, path: str | Path) -> list[str]:
    """Copy the tensors of `path` into `network`, in place.

    Args:
        network: the network of the file. If the number of classes differs, the head is not changed, so it keeps its
            fresh initialisation.
        path: a state dictionary, or a checkpoint of `lit-fa fit`.

    Returns:
        Names of the tensors that were not loaded.

    Raises:
        UserError: no such file, no weights in it, or weights of another network.

    >>> import tempfile, torch
    >>> trained, network = (nn.Sequential(nn.Linear(4, 3), nn.Linear(3, classes)) for classes in (10, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(trained.state_dict(), f"{folder}/trained.pt")
    ...     load_weights(network, f"{folder}/trained.pt")  # the head has another number of classes
    ['1.weight', '1.bias']
    """
    stored, own = read_weights(path), network.state_dict()
    missing = [name for name in own if name not in stored]
    if missing:
        raise UserError(
            f"weights {path}: no tensor for {_shown(missing)} of the network: is it another network's file?"
        )
    other = [name for name, tensor in own.items() if tensor.shape != stored[name].shape]
    if other and not _is_head(other, own, stored):
        shapes = [f"{name} is {tuple(stored[name].shape)}, not {tuple(own[name].shape)}" for name in other[:3]]
        raise UserError(f"weights {path} do not fit: {'; '.join(shapes)}: give the network the sizes of the file")
    network.load_state_dict({name: stored[name] for name in own if name not in other}, strict=False)
    log.info("weights of %s%s", path, f"; {', '.join(other)} freshly initialised for other classes" if other else "")
    return other


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Name to tensor of a weights file, without the prefixes of a checkpoint.

    Raises:
        UserError: see `load_weights`.
    """
    if not os.path.isfile(path):
        raise UserError(f"weights: there is no file {path}")
    try:
        state = read(path)
    except UnreadableError as error:
        remedy = "write them with torch.save(network.state_dict())"
        raise UserError(f"weights {path} cannot be read: {error.reason}; {remedy}") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    entries = state.items() if isinstance(state, Mapping) else ()
    tensors = {name: tensor for name, tensor in entries if isinstance(name, str) and isinstance(tensor, Tensor)}
    if not tensors:
        raise UserError(f"weights {path} contain no tensors: a state dictionary is expected")
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in tensors)), "")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def head_name(tensors: Mapping[str, Tensor]) -> str:
    """The layer of the last floating-point tensor: in every network of timm and transformers the classifier."""
    return [name for name, tensor in tensors.items() if tensor.is_floating_point()][-1].rpartition(".")[0]


def _is_head(names: list[str], own: dict[str, Tensor], stored: dict[str, Tensor]) -> bool:
    """Whether all tensors belong to the network's last layer and differ only in the number of units."""
    layers = {name.rpartition(".")[0] for name in names}
    return layers == {head_name(own)} and all(own[name].shape[1:] == stored[name].shape[1:] for name in names)


def _shown(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
