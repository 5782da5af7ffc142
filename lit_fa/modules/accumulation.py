r"""Gradient accumulation: one optimiser step has the gradient of all samples of several batches, on all ranks.

Let g_i be the mean gradient over the n_i samples of batch i. The gradient of the step is
$\sum_i n_i g_i / \sum_i n_i$ over the batches of all ranks. The k batches of one step are a window; u is the size of
its first batch. The loss of batch i is multiplied by $n_i / (u k)$ before the backward pass, and the remaining factor
is applied when the window closes. That factor is one for k batches of equal size. The last window of an epoch may have
fewer or smaller batches and is divided by its own number of samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Mean = Callable[[int], Tensor | float]


@dataclass
class Window:
    """The batches of the next optimiser step, on this rank.

    Attributes:
        size: k, the number of batches of a full window.
        batches: number of batches whose gradients have been summed.
        samples: number of their samples.
        unit: u, the samples of the first batch, averaged over the ranks.
    """

    size: int = 1
    batches: int = 0
    samples: int = 0
    unit: Tensor | float = 0.0

    def weigh(self, samples: int, mean: Mean) -> Tensor | float:
        """The factor on the scalar of the next batch of `samples` samples; `mean` averages a number over ranks."""
        if self.batches == 0:
            self.unit = mean(samples)
        return samples / (self.unit * self.size)

    def add(self, samples: int) -> None:
        """Count a batch after its backward pass."""
        self.batches, self.samples = self.batches + 1, self.samples + samples

    @torch.no_grad()
    def close(self, module: nn.Module, mean: Mean) -> None:
        """Scale `.grad` to the mean over the samples of the window, and start a new window."""
        one_batch = self.size == self.batches == 1
        factor = 1.0 if one_batch else float(self.unit * self.size / mean(self.samples))
        if factor != 1.0:
            torch._foreach_mul_([p.grad for p in module.parameters() if p.grad is not None], factor)
        self.batches = self.samples = 0

    def state(self, module: nn.Module) -> dict[str, Any]:
        """What a checkpoint within a window stores, including the summed gradients; empty between two windows."""
        if self.batches == 0:
            return {}
        grads = {name: p.grad.detach().clone().cpu() for name, p in module.named_parameters() if p.grad is not None}
        return {"batches": self.batches, "samples": self.samples, "whole": float(self.unit * self.size), "grads": grads}

    def restore(self, states: Sequence[Mapping[str, Any] | None], module: nn.Module, rank: int, ranks: int) -> None:
        """Continue from the states of all ranks; if the number of ranks has changed, the sums are redistributed."""
        open_windows = [state for state in states if state]
        if not open_windows:
            return
        own = open_windows[rank::ranks]
        self.batches, self.unit = open_windows[0]["batches"], open_windows[0]["whole"] / self.size
        self.samples = sum(state["samples"] for state in own)
        for name, p in module.named_parameters():
            grads = [state["grads"][name].to(p.device) for state in own if name in state["grads"]]
            p.grad = sum(grads[1:], grads[0].clone()) if grads else None
