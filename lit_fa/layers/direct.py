"""Direct feedback matrices F_l of the blocks, (c, *block): stored, drawn again at every use, or BioTorch's form."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from lit_fa.functional.credit import Backend, drawn_link, error_link, error_pull
from lit_fa.functional.feedback import draw, draw_rows, named_generator
from lit_fa.layers.feedback import weight_of
from lit_fa.layers.taps import Block

PIECE = 1 << 20  # numbers of F that are in memory at a time, if it is redrawn


class DirectFeedback(nn.Module):
    """F_l (c, *block) of a block, with size 1 for dimensions that share a value."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of F, without drawing it."""
        raise NotImplementedError

    def link(self, output: Tensor, backend: Backend) -> Tensor:
        """(n, c) zeros that send the error at the logits to a block's output (n, *block). See `error_link`."""
        raise NotImplementedError

    def pull(self, output: Tensor, error: Tensor, backend: Backend) -> Tensor:
        """The scalar that sends a known error (n, c) to a block's output, in the backward pass only."""
        return (self.link(output, backend) * error).sum()

    def placed(self, device: torch.device, layout: torch.memory_format) -> Self:
        """This module on a device, with the memory format of its block."""
        return self.to(device).to(memory_format=layout)


class StoredFeedback(DirectFeedback):
    """F_l as a buffer."""

    weight: Tensor

    def __init__(self, matrix: Tensor, shape: tuple[int, ...]):
        """matrix: (c, prod(shape))."""
        super().__init__()
        self.register_buffer("weight", matrix.reshape(-1, *shape).contiguous())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of F."""
        return tuple(self.weight.shape)

    def link(self, output: Tensor, backend: Backend) -> Tensor:
        """See `error_link`."""
        return error_link(output, self.weight, backend=backend)

    def pull(self, output: Tensor, error: Tensor, backend: Backend) -> Tensor:
        """See `error_pull`."""
        return error_pull(output, self.weight, error, backend=backend)


class RedrawnFeedback(DirectFeedback):
    """F_l that is not stored: it is drawn from its seed, in pieces, whenever it is used.

    Args:
        shape: (c, *block), with size 1 for dimensions that share a value.
        init: as of `functional.feedback.draw_rows`.
        scale: factor.
        seed: with the block's name, of the generator.
        name: of the block.
    """

    device: Tensor

    def __init__(self, shape: tuple[int, ...], init: str, scale: float, seed: int, name: str):
        """See the class."""
        super().__init__()
        self.drawn, self.init, self.scale, self.seed, self.name = shape, init, scale, seed, name
        self.register_buffer("device", torch.empty(0), persistent=False)  # moves with the module

    @property
    def shape(self) -> tuple[int, ...]:
        """Of F."""
        return self.drawn

    def link(self, output: Tensor, backend: Backend) -> Tensor:
        """See `drawn_link`; there is one backend."""
        return drawn_link(output, self.shape, self.pieces)

    def placed(self, device: torch.device, layout: torch.memory_format) -> Self:
        """This module on a device; it has no memory format."""
        return self.to(device)

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Units of the block, and their rows of F^T (units, c), of about 4 MiB each."""
        classes, units = self.shape[0], math.prod(self.shape[1:])
        return draw_rows(
            (units, classes), self.init, named_generator(self.seed, self.name), PIECE // classes, gain=self.scale
        )

    @property
    def weight(self) -> Tensor:
        """The whole F (c, *block), for measurements."""
        rows = torch.cat([piece for _, piece in self.pieces()])
        return rows.t().reshape(self.shape).to(self.device)


class Drawn(Mapping[str, Tensor]):
    """Block to F; each is read, or drawn, when it is asked for."""

    def __init__(self, feedback: Mapping[str, nn.Module]):
        """feedback: block to the module that has F as `weight`."""
        self.feedback = feedback

    def __getitem__(self, name: str) -> Tensor:
        return weight_of(self.feedback[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.feedback)

    def __len__(self) -> int:
        return len(self.feedback)


class SpreadFeedback(StoredFeedback):
    """BioTorch's conv feedback: the error at every position of the next conv's output, sent back through a kernel."""

    def __init__(
        self, classes: int, block: Block, conv: nn.Conv2d, init: str, scale: float, generator: torch.Generator
    ):
        """Draw a kernel (c, h, k, k) and compute (c, h, s, s) from it once, because the result is linear in e."""
        channels, *size = block.shape
        kernels = draw((classes, channels, *conv.kernel_size), init, generator, gain=scale).split(1)
        padding = [k // 2 for k in conv.kernel_size] if isinstance(conv.padding, str) else conv.padding

        def spread(x: Tensor, kernel: Tensor) -> Tensor:
            return nn.functional.conv2d(x, kernel, None, conv.stride, padding, conv.dilation)

        zeros = torch.zeros(1, channels, *size)
        ones = torch.ones_like(spread(zeros, kernels[0]))
        maps = [torch.autograd.functional.vjp(partial(spread, kernel=kernel), zeros, ones)[1] for kernel in kernels]
        super().__init__(torch.cat(maps), block.shape)
