"""Counts the tensor bytes that are alive at the same time during a computation."""

import gc
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_fa.layers.observing import observing
from lit_fa.rules.learner import Learner


class LiveBytes(TorchDispatchMode):
    """Counts tensor storages that are created within the block.

    Attributes:
        bytes: of those that are alive.
        peak: largest value of `bytes` so far.
    """

    def __init__(self) -> None:
        """Start at zero."""
        TorchDispatchMode.__init__(self)
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count the storages that it creates."""
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), before)
        return out

    def _count(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in before or key in self._known:
            return
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def step_bytes(learner: Learner, batch: tuple[Tensor, Tensor], *, stream: bool = False) -> int:
    """Peak of live tensor bytes while `learner` computes the gradients of one batch; its state is not changed."""
    gc.collect()
    with observing(learner), LiveBytes() as live:
        if stream:
            learner.stream(batch, Tensor.backward)
        else:
            learner(batch).value.backward()
    return live.peak
