"""Dotted overrides of a config, and the id that says what a config computes; needs no package."""

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from lit_fa.errors import UserError

# What may differ between two machines that reproduce the same number.
_TRAINER_MACHINE = {
    "accelerator",
    "barebones",
    "default_root_dir",
    "devices",
    "enable_model_summary",
    "enable_progress_bar",
    "logger",
    "num_nodes",
    "plugins",
    "profiler",
    "strategy",
}
_DATA_MACHINE = {"root", "data_dir", "download", "num_workers", "persistent_workers", "pin_memory", "prefetch_factor"}


def assign(config: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Sets `a.b.c` in nested dicts, creating those that are absent; a dict replaces what was there as a whole."""
    *parents, last = key.split(".")
    if any(not name or name != name.strip() for name in (*parents, last)):
        raise UserError(f"{where}: {key[:60]!r} is no dotted name; write it as trainer.max_epochs, without blanks")
    node = config
    for depth, name in enumerate(parents):
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            through = ".".join(parents[: depth + 1])
            raise UserError(f"{where}: {key} goes through {through}, which is {node!r}; replace {through} as a whole")
    node[last] = copy.deepcopy(value)


def fill_seed(value: Any, seed: int) -> Any:
    """The value with the seed wherever it says `$seed`."""
    if isinstance(value, dict):
        return {key: fill_seed(entry, seed) for key, entry in value.items()}
    if isinstance(value, list):
        return [fill_seed(entry, seed) for entry in value]
    return seed if value == "$seed" else value


def with_seed(config: dict[str, Any], seeded: Sequence[str], seed: int, where: str) -> dict[str, Any]:
    """A config of its own with the seed wherever it says `$seed`, and at the keys of `seeded`.

    Args:
        seeded: dotted keys; one that ends in `?` may be absent.
        where: of the table, for the error.

    Raises:
        UserError: the config lacks a key that does not end in `?`.
    """
    config = fill_seed(config, seed)
    for key in seeded:
        if _parent_exists(config, key.removesuffix("?")):
            assign(config, key.removesuffix("?"), seed, where)
        elif not key.endswith("?"):
            raise UserError(f"{where}: seeded: this cell has no {key}; write {key}? if some cells lack it")
    return config


def _parent_exists(config: dict[str, Any], key: str) -> bool:
    node: Any = config
    for name in key.split(".")[:-1]:
        node = node.get(name) if isinstance(node, dict) else None
    return isinstance(node, dict)


def run_id(config: dict[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the config without devices, workers, paths and loggers."""
    canonical = json.dumps(_plain(without_machine(config)), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def without_machine(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that decides the numbers."""
    part = dict(config)
    if isinstance(part.get("trainer"), dict):
        part["trainer"] = {key: value for key, value in part["trainer"].items() if key not in _TRAINER_MACHINE}
    if "data" in part:
        part["data"] = _without(part["data"], _DATA_MACHINE)
    if isinstance(part.get("pretrain"), dict):
        part["pretrain"] = without_machine(part["pretrain"])
    return part


def _without(node: Any, names: set[str]) -> Any:
    """`node` without the named keys at any depth: a federated datamodule holds another one."""
    if isinstance(node, dict):
        return {key: _without(value, names) for key, value in node.items() if key not in names}
    return [_without(entry, names) for entry in node] if isinstance(node, list) else node


def _plain(node: Any) -> Any:
    """10.0 and 10 are one number."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(entry) for entry in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node
