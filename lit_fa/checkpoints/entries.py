"""The kinds of a checkpoint's entries: a file that another program wrote, or that was edited, may have others.

Lightning, torch and our modules take the kinds for granted and would fail with a traceback while they restore a run.
"""

from collections.abc import Callable, Mapping
from typing import Any

from packaging.version import InvalidVersion, Version
from torch import Tensor

RESUMED = ("optimizer_states", "lr_schedulers", "loops")  # without them a run has only its weights


def wrong_entry(content: Mapping[str, Any]) -> str | None:
    """The name of the first entry of another kind than Lightning or our modules write; None if there is none.

    >>> wrong_entry({"state_dict": {"w": Tensor([1.0])}, "lr_schedulers": []})
    >>> wrong_entry({"state_dict": {"w": "text"}})
    'state_dict'
    """
    return next((name for name, is_right in _KINDS.items() if name in content and not is_right(content[name])), None)


def _is_state(value: object) -> bool:
    """Whether the value is a state dictionary: tensors, a metric's lists of them, and extra state of any kind."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and (isinstance(entry, Tensor | list) or name.endswith("_extra_state"))
        for name, entry in value.items()
    )


def _is_version(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(Version(value))
    except InvalidVersion:
        return False


def _is_mapping(value: object) -> bool:
    return value is None or isinstance(value, Mapping)


def _are_mappings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)


def _are_optimizers(value: Any) -> bool:
    return _are_mappings(value) and all(
        isinstance(state.get("state"), Mapping) and state.get("param_groups") and _are_mappings(state["param_groups"])
        for state in value
    )


def _are_states(value: Any) -> bool:
    """Whether the value is a mapping of names to mappings, such as loops or logs."""
    return _is_mapping(value) and all(isinstance(state, Mapping) for state in (value or {}).values())


def _is_constructor(value: Any) -> bool:
    """Whether the value says how a module was made, see `lit_fa.described`; an empty one says nothing."""
    if not value:
        return _is_mapping(value)
    return (
        isinstance(value, Mapping) and isinstance(value.get("class_path"), str) and _is_mapping(value.get("init_args"))
    )


_KINDS: dict[str, Callable[[Any], bool]] = {
    "state_dict": _is_state,
    "pytorch-lightning_version": _is_version,
    "epoch": lambda value: isinstance(value, int),
    "global_step": lambda value: isinstance(value, int),
    "optimizer_states": _are_optimizers,
    "lr_schedulers": _are_mappings,
    "loops": _are_states,
    "constructor": _is_constructor,
    "lit_fa": lambda value: value is None or _are_mappings(value),
    **dict.fromkeys(("callbacks", "trained_on", "metrics", "unlogged", "plateau", "adapters", "prepared"), _is_mapping),
    **dict.fromkeys(("federated", "wandb"), _is_mapping),
    "logs": _are_states,
}
