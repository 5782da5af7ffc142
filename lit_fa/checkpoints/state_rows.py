"""A client's tensors as one row of bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import torch

Tensors = dict[str, torch.Tensor]
_ALIGNED = 16  # bytes: every tensor of a row begins at a multiple, so that it can be viewed in its dtype


@dataclass(frozen=True)
class Layout:
    """Names, shapes and dtypes of the tensors of a row.

    >>> layout = Layout.of({"w": torch.ones(3), "b": torch.zeros(())})
    >>> layout.nbytes, layout.unpack(bytearray(layout.pack({"w": torch.ones(3), "b": torch.tensor(2.0)})))["b"]
    (32, tensor(2.))
    """

    fields: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]

    @classmethod
    def of(cls, tensors: Tensors) -> Self:
        """The layout of tensors like these."""
        return cls(tuple((name, tuple(t.shape), t.dtype) for name, t in tensors.items()))

    @classmethod
    def read(cls, described: Any) -> Self:
        """The reverse of `described`."""
        return cls(tuple((name, tuple(shape), getattr(torch, dtype)) for name, shape, dtype in described))

    def described(self) -> list[list[Any]]:
        """As plain data."""
        return [[name, [*shape], str(dtype).removeprefix("torch.")] for name, shape, dtype in self.fields]

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return sum(_padded(prod(shape) * dtype.itemsize) for _, shape, dtype in self.fields)

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> memoryview:
        """The row of a client."""
        row = torch.zeros(self.nbytes, dtype=torch.uint8)
        start = 0
        for name, shape, dtype in self.fields:
            size = prod(shape) * dtype.itemsize
            if size:
                row[start : start + size] = (
                    tensors[name].detach().to("cpu", dtype).contiguous().reshape(-1).view(torch.uint8)
                )
            start += _padded(size)
        return row.numpy().data

    def unpack(self, row: bytearray) -> Tensors:
        """The tensors of a row; they share its memory."""
        whole, start, tensors = torch.frombuffer(row, dtype=torch.uint8), 0, {}
        for name, shape, dtype in self.fields:
            size = prod(shape) * dtype.itemsize
            tensors[name] = whole[start : start + size].view(dtype).view(shape)
            start += _padded(size)
        return tensors


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
