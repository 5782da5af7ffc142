r"""The two operations of every rule: remove a path from the backward pass, and add a path to the backward pass only.

Links from the logits to a block are those of direct feedback alignment (Nøkland 2016, arXiv:1609.01596).

A rule is a scalar whose ordinary autograd gradient is the prescribed update (a surrogate). `cut` is a stop-gradient;
`gradient_only` adds a path whose value is zero; `linear_surrogate` makes a surrogate from an update that was computed
explicitly. So `backward`, DDP, mixed precision, `torch.compile` and `torch.func` need no special case.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lit_fa.functional.differentiable import Differentiable

Backend = Literal["fused", "detour"]
Pieces = Callable[[], Iterable[tuple[slice, Tensor]]]


def cut(x: Tensor) -> Tensor:
    """Stop-gradient: the value of `x`, any shape, without its backward path."""
    return x.detach()


def gradient_only(x: Tensor) -> Tensor:
    r"""Zero in the forward pass, the identity in the backward pass: $x - \mathrm{stop}(x)$, `x` of any shape.

    If `x` overflows in float16, the value is nan (inf - inf); bfloat16 and float32 are safe.

    >>> x = torch.ones(2, requires_grad=True)
    >>> y = gradient_only(3 * x).sum()
    >>> y.item(), torch.autograd.grad(y, x)[0].tolist()
    (0.0, [3.0, 3.0])
    """
    return x - x.detach()


def linear_surrogate(params: Mapping[str, Tensor], updates: Mapping[str, Tensor]) -> Tensor:
    r"""$\sum_k \langle \theta_k, \mathrm{stop}(u_k) \rangle$: the scalar whose gradient is the given update.

    For a rule that computes its update explicitly; assigning it to `.grad` would bypass DDP's reduction.

    Args:
        params: name to parameter, of any shape.
        updates: name to gradient, of the parameter's shape; a missing parameter receives no gradient.
    """
    return torch.stack([(params[name] * update.detach()).sum() for name, update in updates.items()]).sum()


class _ErrorLink(Differentiable):
    """Forward: zeros (n, c). Backward: the error times the feedback. See `error_link`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, feedback: Tensor) -> Tensor:
        return output.new_zeros(()).expand(output.shape[0], feedback.shape[0])  # (n, c) zeros in one number

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], _output: Tensor) -> None:
        output, feedback = inputs
        ctx.save_for_backward(feedback)
        ctx.shape, ctx.channels_last = output.shape, _channels_last(output)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor, None]:
        (feedback,) = ctx.saved_tensors
        return _projected(error, feedback, ctx.channels_last).expand(ctx.shape), None


class _DrawnLink(Differentiable):
    """As `_ErrorLink`, with feedback that comes in pieces and is not stored. See `drawn_link`."""

    @staticmethod
    def forward(output: Tensor, shape: tuple[int, ...], pieces: Pieces) -> Tensor:
        return output.new_zeros(()).expand(output.shape[0], shape[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, ...], Pieces], _output: Tensor) -> None:
        output, shape, ctx.pieces = inputs
        ctx.drawn, ctx.shape, ctx.channels_last = shape[1:], output.shape, _channels_last(output)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor, None, None]:
        delta = error.new_empty(len(error), math.prod(ctx.drawn))
        for units, piece in ctx.pieces():
            delta[:, units] = error @ piece.to(error).t()
        delta = delta.view(-1, *ctx.drawn).expand(ctx.shape)
        return delta.contiguous(memory_format=torch.channels_last) if ctx.channels_last else delta, None, None


class _ErrorPull(Differentiable):
    """Forward: 0. Backward: the given signal times the feedback. See `error_pull`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, feedback: Tensor, signal: Tensor) -> Tensor:
        return output.new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], _output: Tensor) -> None:
        output, feedback, signal = inputs
        ctx.save_for_backward(feedback, signal)
        ctx.shape, ctx.channels_last = output.shape, _channels_last(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        feedback, signal = ctx.saved_tensors
        return _projected(grad * signal, feedback, ctx.channels_last).expand(ctx.shape), None, None


def _channels_last(output: Tensor) -> bool:
    """Whether a map has the channels_last format; an error map in another one is copied in every backward pass."""
    return output.ndim == 4 and output.shape[1] == output.stride(3) > output.stride(1) == 1


def _projected(error: Tensor, feedback: Tensor, channels_last: bool) -> Tensor:
    """(n, *block): the error (n, c) times F (c, *block)."""
    if channels_last:
        feedback = feedback.permute(0, 2, 3, 1)
    delta = error.to(feedback.dtype) @ feedback.flatten(1)
    delta = delta.view(-1, *feedback.shape[1:])
    return delta.permute(0, 3, 1, 2) if channels_last else delta


def error_link(output: Tensor, feedback: Tensor, *, backend: Backend = "fused") -> Tensor:
    r"""Connect a block's output to the logits in the backward pass only: $\delta = e F$ (Nøkland 2016).

    Adding the result to the logits does not change them, and sends the loss gradient at the logits through `feedback`
    directly to the block. The link is created at the block boundary, so autograd processes the links one after another,
    last block first, and the projected errors of different blocks are not in memory at the same time.

    Args:
        output: (n, *block), output of a block.
        feedback: (c, *block), direct feedback matrix F, one row per class; dimensions of size 1 are shared by all
            positions.
        backend: `fused` computes no product in the forward pass; `detour` is the literal reference, x F^T - stop(x
            F^T).

    Returns:
        (n, c) zeros with this backward path.

    >>> h, F = torch.zeros(1, 2, requires_grad=True), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> torch.autograd.grad(error_link(h, F)[0, 1], h)[0].tolist()
    [[3.0, 4.0]]
    """
    if backend == "fused":
        return _ErrorLink.apply(output, feedback.to(output.dtype))
    full = feedback.expand(-1, *output.shape[1:]).to(output.dtype)
    return gradient_only(output.flatten(1) @ full.flatten(1).t())


def drawn_link(output: Tensor, shape: tuple[int, ...], pieces: Pieces) -> Tensor:
    r"""`error_link` with a matrix that does not fit in memory: $\delta = e F$ in pieces of some units.

    Args:
        output: (n, *block), output of a block.
        shape: (c, *block) of F, with size 1 for dimensions that share a value.
        pieces: called in the backward pass; yields the units of a piece, as columns of the flattened F (c, d), and the
            piece of F^T, (units, c).

    Returns:
        (n, c) zeros with this backward path.
    """
    return _DrawnLink.apply(output, shape, pieces)


def error_pull(output: Tensor, feedback: Tensor, signal: Tensor, *, backend: Backend = "fused") -> Tensor:
    r"""The scalar $\langle x F^\top, e \rangle$ for a known error e, in the backward pass only: $\delta = e F$.

    The same gradient as that of the link of `error_link` times the error, bit for bit, with fewer operations.

    Args:
        output: (n, *block), x.
        feedback: (c, *block), as of `error_link`.
        signal: (n, c), e, with the dtype of `output`.
        backend: as of `error_link`.

    >>> h, F = torch.zeros(1, 2, requires_grad=True), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> torch.autograd.grad(error_pull(h, F, torch.tensor([[0.0, 1.0]])), h)[0].tolist()
    [[3.0, 4.0]]
    """
    if backend == "fused":
        return _ErrorPull.apply(output, feedback.to(output.dtype), signal)
    return (error_link(output, feedback, backend=backend) * signal).sum()
