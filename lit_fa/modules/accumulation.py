r"""Shares of ranks, and several batches, for one optimiser step: its gradient is that of one batch of all samples.

With g_i the mean gradient over the n_i samples of batch i, the step's gradient is $\sum_i n_i g_i / \sum_i n_i$ over
the batches of all ranks. A batch is weighed by $n_i / (u k)$ while it is differentiated, where k batches make a window
and u is the size of the window's first; the rest of the division waits until the window closes. So k batches of one
size are averaged with nothing left to do, and the last window of an epoch, which may hold fewer batches or a smaller
one, is divided by what it holds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Mean = Callable[[int], Tensor | float]


@dataclass
class Window:
    """The batches of the optimiser step that comes, on this rank.

    Attributes:
        size: k, batches of a full window.
        batches: whose gradients have been summed.
        samples: in them.
        unit: u, samples of the first, the mean over ranks.
    """

    size: int = 1
    batches: int = 0
    samples: int = 0
    unit: Tensor | float = 0.0

    def weigh(self, samples: int, mean: Mean) -> Tensor | float:
        """Factor on the scalar of the batch that comes, of so many samples. mean: of a number over ranks."""
        if self.batches == 0:
            self.unit = mean(samples)
        return samples / (self.unit * self.size)

    def add(self, samples: int) -> None:
        """Count a batch that has been differentiated."""
        self.batches, self.samples = self.batches + 1, self.samples + samples

    @torch.no_grad()
    def close(self, module: nn.Module, mean: Mean) -> None:
        """Make `.grad` the mean over the samples of the window, and start another."""
        alone = self.size == self.batches == 1
        rest = 1.0 if alone else float(self.unit * self.size / mean(self.samples))
        if rest != 1.0:
            torch._foreach_mul_([p.grad for p in module.parameters() if p.grad is not None], rest)
        self.batches = self.samples = 0

    def state(self, module: nn.Module) -> dict[str, Any]:
        """What a checkpoint in the middle of a window keeps, the summed gradients among it; empty between two."""
        if self.batches == 0:
            return {}
        grads = {name: p.grad.detach().clone().cpu() for name, p in module.named_parameters() if p.grad is not None}
        return {"batches": self.batches, "samples": self.samples, "whole": float(self.unit * self.size), "grads": grads}

    def take_up(self, states: Sequence[Mapping[str, Any] | None], module: nn.Module, rank: int, ranks: int) -> None:
        """Go on from the states of all ranks; on another number of ranks their sums are shared out."""
        open_windows = [state for state in states if state]
        if not open_windows:
            return
        own = open_windows[rank::ranks]
        self.batches, self.unit = open_windows[0]["batches"], open_windows[0]["whole"] / self.size
        self.samples = sum(state["samples"] for state in own)
        for name, p in module.named_parameters():
            grads = [state["grads"][name].to(p.device) for state in own if name in state["grads"]]
            p.grad = sum(grads[1:], grads[0].clone()) if grads else None
