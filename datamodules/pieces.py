"""Many index arrays as offsets into one, so that a million of them need no million objects."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Whole = TypeVar("Whole", Tensor, NDArray[Any])


class Pieces(Sequence[Whole], Generic[Whole]):
    """A sequence of the consecutive pieces of an array or a tensor; each piece is a view.

    Args:
        whole: (n,), all pieces one after the other.
        sizes: (k,), of the pieces.

    >>> pieces = Pieces(np.arange(5), np.array([2, 0, 3]))
    >>> len(pieces), pieces[-1].tolist(), [len(piece) for piece in pieces[:2]]
    (3, [2, 3, 4], [2, 0])
    """

    def __init__(self, whole: Whole, sizes: NDArray[np.intp]):
        """Nothing is copied."""
        self.whole: Whole = whole
        self.sizes = sizes
        self._ends = np.cumsum(sizes)

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> Whole: ...
    @overload
    def __getitem__(self, index: slice) -> list[Whole]: ...
    def __getitem__(self, index: int | slice) -> Whole | list[Whole]:
        """One piece, or a list of several."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        end = int(self._ends[index])
        return self.whole[end - int(self.sizes[index]) : end]


def pieces_of(parts: Sequence[Any]) -> "Pieces[Tensor]":
    """Index lists, arrays or tensors as pieces of one int64 tensor on the CPU."""
    if isinstance(parts, Pieces):
        return Pieces(torch.as_tensor(parts.whole, dtype=torch.int64).cpu(), parts.sizes)
    tensors = [torch.as_tensor(part, dtype=torch.int64).cpu() for part in parts]
    sizes = np.fromiter(map(len, tensors), np.intp, len(tensors))
    return Pieces(torch.cat(tensors) if tensors else torch.zeros(0, dtype=torch.int64), sizes)
