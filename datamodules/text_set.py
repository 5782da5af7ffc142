"""Tokenised texts of different lengths, concatenated in memory and padded only within a batch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextSet:
    """Texts and labels on one device.

    Attributes:
        tokens: (all,) int32, the concatenated token ids of all texts.
        types: (all,) int8, the token types (0 the first sentence, 1 the second).
        starts: (n,) int64, index of the first token of each text.
        lengths: (n,) int64, number of tokens of each text.
        labels: (n,) int64 classes, or float32 numbers.
        pad: the token id used for padding.
    """

    tokens: Tensor
    types: Tensor
    starts: Tensor
    lengths: Tensor
    labels: Tensor
    pad: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Self:
        """The texts at `indices`; the tokens are shared, not copied."""
        return replace(self, **{name: getattr(self, name)[indices] for name in ("starts", "lengths", "labels")})

    def to(self, device: torch.device) -> Self:
        """The same set on `device`."""
        names = ("tokens", "types", "starts", "lengths", "labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """One (inputs (n, 3, T) int64, labels) for each index vector: ids, mask, types; T is the longest length."""
        for index in indices:
            local = index.to(self.labels.device)
            yield self.padded(local), self.labels.index_select(0, local)

    def padded(self, index: Tensor) -> Tensor:
        """(n, 3, T) int64: token ids, attention mask, token types of the texts at `index`.

        >>> texts = TextSet(*map(torch.tensor, ([7, 8, 9], [0, 0, 1], [0, 1], [1, 2], [1, 0])))
        >>> texts.padded(torch.tensor([0, 1])).tolist()
        [[[7, 0], [1, 0], [0, 0]], [[8, 9], [1, 1], [0, 1]]]
        """
        starts, lengths = self.starts[index].unsqueeze(1), self.lengths[index].unsqueeze(1)
        at = torch.arange(int(lengths.max()), device=lengths.device)
        mask = at < lengths
        place = (starts + at).clamp_(max=len(self.tokens) - 1)  # positions after the end of a text are masked below
        ids = self.tokens[place].masked_fill(~mask, self.pad)
        return torch.stack([ids.long(), mask.long(), self.types[place].long() * mask], 1)
