"""The running totals of an epoch: loss, correct samples, samples seen."""

import torch
from torch import Tensor


class Totals:
    """Sums in 64 bits. On a CPU they are Python floats, which the same arithmetic adds in less time than tensors.

    Attributes:
        sums: on a CPU, the three sums; None while they are in the tensor.
    """

    def __init__(self, totals: Tensor | None = None):
        """Begin at the given totals (3,), by default at zero."""
        self._tensor = torch.zeros(3, dtype=torch.float64) if totals is None else totals
        self.sums: list[float] | None = None

    @property
    def tensor(self) -> Tensor:
        """(3,), float64; may be changed in place."""
        if self.sums is not None:
            self._tensor, self.sums = torch.tensor(self.sums, dtype=torch.float64), None
        return self._tensor

    def add(self, loss: Tensor, correct: Tensor, seen: int) -> None:
        """Add a batch: its mean loss, whether each sample is classified correctly (n,), and the samples that count."""
        right = (correct if seen == len(correct) else correct[:seen]).sum()
        if right.device.type != "cpu":
            self._tensor = self.tensor.to(right.device)
            self._tensor += torch.stack([loss.double() * seen, right.double(), right.new_tensor(seen).double()])
            return
        if (sums := self.sums) is None:
            sums = self.sums = self._tensor.tolist()
        sums[0] += float(loss) * seen
        sums[1] += int(right)
        sums[2] += seen
