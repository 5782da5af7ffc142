"""A rule on a small network: what every contract is a statement about."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lit_fa.rules.base import LearningRule
from lit_fa.rules.learner import Learner
from lit_fa.testing.networks import CLASSES

Reference = Callable[[Learner, "np.ndarray", "np.ndarray"], Mapping[str, "np.ndarray"]]


@dataclass(frozen=True)
class Subject:
    """A rule on a network.

    Attributes:
        rule: as it is before `install`; every learner gets a copy of it.
        build: makes the network; the global seed decides the weights.
        shape: of one input.
        reference: from (learner, inputs, labels) to literal gradients by the learner's names, or None.
        tolerance: largest difference from the reference in float64.
    """

    rule: LearningRule
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    reference: Reference | None = None
    tolerance: float = 1e-10

    def learner(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Learner:
        """A fresh learner; the seed decides the weights."""
        torch.manual_seed(seed)
        network = self.build().to(dtype)
        return Learner(network, copy.deepcopy(self.rule), torch.zeros(2, *self.shape, dtype=dtype))

    def batch(self, n: int = 6, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Inputs (n, *shape) and labels (n,)."""
        g = torch.Generator().manual_seed(seed)
        return torch.randn(n, *self.shape, generator=g, dtype=dtype), torch.randint(CLASSES, (n,), generator=g)
