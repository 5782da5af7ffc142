"""A trained module as a folder for a model hub: weights in safetensors, and JSON that says how it is made again.

Nothing in the folder can execute code. It has no states of optimisers and of a federation's clients.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lit_fa.bounded_reading import read_json
from lit_fa.checkpoints.loading import arguments, fill
from lit_fa.described import imported
from lit_fa.errors import UserError, one_line
from lit_fa.outputs import write_text, written

if TYPE_CHECKING:
    from lit_fa.modules import EvaluatedClassifier

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = "lit-fa 1"  # the entry `format` of the config
_TUPLE = "tuple()"  # JSON has no tuples


def write_module(checkpoint: Mapping[str, Any], folder: Path) -> str:
    """Write weights and config of a checkpoint; returns the SHA-256 of the weights' file.

    Args:
        checkpoint: the content of one of `lit-fa fit`.
        folder: is made if there is none.

    Raises:
        UserError: the checkpoint does not say how its module was made, or holds what is neither tensor nor plain data.
    """
    if not checkpoint.get("constructor"):
        raise UserError("the checkpoint does not say how its module was made, so that no hub could give it back")
    state = checkpoint["state_dict"]
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items() if _is_tensor(value)}
    others = {name: value for name, value in state.items() if not _is_tensor(value) and value not in ([], None, {})}
    if others:
        raise UserError(f"the state of {', '.join([*others][:3])} is no tensor, and safetensors hold nothing else")
    config = {"format": FORMAT, "constructor": checkpoint["constructor"], "adapters": checkpoint.get("adapters") or {}}
    try:
        text = json.dumps(_encoded(config), indent=1, sort_keys=True)
    except TypeError as error:
        raise UserError(f"the module's arguments are no plain data ({one_line(error)})") from None
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / WEIGHTS) as part:
        save_file(tensors, part, metadata={"format": "pt"})
    write_text(folder / CONFIG, text + "\n")
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def is_pushed(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def load_pushed(folder: Path, given: Mapping[str, object]) -> "EvaluatedClassifier":
    """The module of such a folder, in evaluation mode, on the CPU.

    Raises:
        UserError: a file of another kind, a class that cannot be imported, or weights of another network.
    """
    checkpoint = read_module(folder)
    kind = imported(checkpoint["constructor"]["class_path"])
    with isolate_rng(include_cuda=torch.cuda.is_available()):
        module = kind(**arguments(checkpoint, folder, given))
    module.loaded_from = folder
    module.on_load_checkpoint(checkpoint)
    fill(module, checkpoint, folder)
    return module.eval()


def read_module(folder: Path) -> dict[str, Any]:
    """The entries of a checkpoint that such a folder has.

    Raises:
        UserError: it cannot be read, or is of another kind.
    """
    try:
        config, state = _decoded(read_json(folder / CONFIG)), load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read ({one_line(error)}): fetch it again") from None
    made = config.get("constructor") if isinstance(config, dict) and config.get("format") == FORMAT else None
    if not isinstance(made, dict) or {"class_path", "init_args"} - made.keys():
        raise UserError(f"{folder / CONFIG} is not of a model that lit-fa has written: give another folder")
    return {"state_dict": state, "constructor": made, "adapters": config.get("adapters") or {}}


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _encoded(value: Any) -> Any:
    """Plain data for JSON."""
    if isinstance(value, dict):
        return {str(key): _encoded(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_encoded(entry) for entry in value]}
    return [_encoded(entry) for entry in value] if isinstance(value, list) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if [*value] == [_TUPLE]:
            return tuple(_decoded(entry) for entry in value[_TUPLE])
        return {key: _decoded(entry) for key, entry in value.items()}
    return [_decoded(entry) for entry in value] if isinstance(value, list) else value
