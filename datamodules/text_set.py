"""Tokenised texts of unequal length, end to end in memory, padded only within a batch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextSet:
    """Texts and labels on one device.

    Attributes:
        tokens: (all,) int32, the token ids of all texts end to end.
        types: (all,) int8, the token types (0 the first sentence, 1 the second).
        starts: (n,) int64, where each text begins.
        lengths: (n,) int64, how many tokens it has.
        labels: (n,) int64 classes, or float32 numbers.
        pad: the id that fills a batch.
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
        """The texts at `indices`; the tokens themselves stay where they are."""
        kept = {name: getattr(self, name)[indices] for name in ("starts", "lengths", "labels")}
        return replace(self, **kept)

    def to(self, device: torch.device) -> Self:
        """The same set on `device`."""
        names = ("tokens", "types", "starts", "lengths", "labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """One (inputs (n, 3, T) int64, labels) for each index vector: ids, mask, types; T is the longest text's."""
        for index in indices:
            place = index.to(self.labels.device)
            yield self.padded(place), self.labels.index_select(0, place)

    def padded(self, index: Tensor) -> Tensor:
        """(n, 3, T) int64: token ids, attention mask, token types of the texts at `index`.

        >>> texts = TextSet(*map(torch.tensor, ([7, 8, 9], [0, 0, 1], [0, 1], [1, 2], [1, 0])))
        >>> texts.padded(torch.tensor([0, 1])).tolist()
        [[[7, 0], [1, 0], [0, 0]], [[8, 9], [1, 1], [0, 1]]]
        """
        starts, lengths = self.starts[index].unsqueeze(1), self.lengths[index].unsqueeze(1)
        at = torch.arange(int(lengths.max()), device=lengths.device)
        mask = at < lengths
        place = (starts + at).clamp_(max=len(self.tokens) - 1)  # what lies behind a text's end is masked below
        ids = self.tokens[place].masked_fill(~mask, self.pad)
        return torch.stack([ids.long(), mask.long(), self.types[place].long() * mask], 1)
