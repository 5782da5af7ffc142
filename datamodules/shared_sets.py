"""One copy of the images for all data modules of a process with the same options, while one of them is in use.

Only modules whose attribute `shares` is True take part: the runs of a pack, which train at the same time. So nothing
is kept for a later run, and no run gets images that were read before it began, but for those of its own pack.
"""

from typing import Any
from weakref import WeakValueDictionary

import torch

# what `setup` sets; orders and augmentation are no part of it, so seeds may differ
RESULTS = (
    "train_set",
    "val_set",
    "test_set",
    "checksum",
    "mean",
    "std",
    "_scale",
    "_shift",
    "train_indices",
    "flipped",
)
_OWN = ("seed", "batch_size", "eval_batch_size", "drop_last", "trainer", "device", "shares", "choose_by_test", *RESULTS)


class Sets:
    """The results of one `setup`."""

    def __init__(self, results: dict[str, Any]):
        """results: by the names of `RESULTS`."""
        self.results = results


_kept: "WeakValueDictionary[str, Sets]" = WeakValueDictionary()


def take(module: Any, device: torch.device) -> bool:
    """Give the module the sets of another one with the same options; False if there are none."""
    key = _key(module, device)
    sets = None if key is None else _kept.get(key)
    if sets is None:
        return False
    vars(module).update(sets.results, _sets=sets)
    return True


def known(module: Any, device: torch.device) -> bool:
    """Whether `take` would find sets."""
    key = _key(module, device)
    return key is not None and key in _kept


def offer(module: Any, device: torch.device) -> None:
    """Let other modules take the sets of this one, as long as it lives."""
    if (key := _key(module, device)) is not None:
        module._sets = Sets({name: getattr(module, name) for name in RESULTS})
        _kept[key] = module._sets


def _key(module: Any, device: torch.device) -> str | None:
    """Class, options and device; None for a module that does not share.

    A module that replaces labels writes a file for its own run, and transforms may have a state.
    """
    if not module.shares or module.label_noise or module.transforms:
        return None
    options = {name: value for name, value in vars(module).items() if name not in _OWN and not name.startswith("_")}
    return repr((type(module).__qualname__, str(device), sorted(options.items())))
