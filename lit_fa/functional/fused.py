r"""The fast backend of feedback alignment: one autograd node per layer whose backward pass uses B.

$\delta_{l-1} = \delta_l B_l$ in place of backprop's $\delta_l W_l$ (Lillicrap et al. 2016); the gradient of the
weight is exact. A node computes the same products as backprop and no others: no second forward pass,
and no input gradient that is not needed.
Letters: n batch (any number of leading dimensions for linear layers), i in, o out.

`matrix(weight, stored)` computes B during the backward pass. A matrix that is derived from the weight (for example its
sign) is therefore not stored between the passes, and it is freed before the gradient of the weight is computed.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_fa.functional.differentiable import Differentiable

Matrix = Callable[[Tensor, Tensor | None], Tensor]
Geometry = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups


class LinearFeedback(Differentiable):
    """`F.linear` whose input gradient is gain * error @ matrix(weight, stored)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *_: object) -> Tensor:  # noqa: D102
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:  # noqa: D102
        x, weight, _, stored, ctx.matrix, ctx.gain = inputs
        ctx.save_for_backward(x, weight, stored)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, weight, stored = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_stored = ctx.needs_input_grad[:4]
        grad_x = grad_weight = grad_bias = derived = None
        if needs_x:
            credit = error if ctx.gain == 1.0 else error * ctx.gain
            feedback = ctx.matrix(weight, stored)
            grad_x = credit @ feedback
            derived = None if feedback is stored or feedback is weight else feedback
        rows = error.reshape(-1, error.shape[-1])
        if needs_weight:
            grad_weight = _product_into(derived, rows.t(), x.reshape(-1, x.shape[-1]))
        if needs_bias:
            grad_bias = rows.sum(0)
        # Kolen-Pollack: trained feedback receives the increment of the weight, and none if the weight is frozen
        return grad_x, grad_weight, grad_bias, grad_weight if needs_stored and needs_weight else None, None, None


class ConvFeedback(Differentiable):
    """Convolution (1-D, 2-D or 3-D) whose input gradient goes through gain * matrix(weight, stored).

    `geometry` is (stride, padding, dilation, groups), all lists except groups; the padding is with zeros.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *others: Any) -> Tensor:  # noqa: D102
        stride, padding, dilation, groups = others[-1]
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:  # noqa: D102
        x, weight, bias, stored, ctx.matrix, ctx.gain, ctx.geometry = inputs
        ctx.save_for_backward(x, weight, stored)
        ctx.bias_size = None if bias is None else [weight.shape[0]]

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, weight, stored = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_stored = ctx.needs_input_grad[:4]
        stride, padding, dilation, groups = ctx.geometry
        feedback = ctx.matrix(weight, stored) if needs_x else weight
        if needs_x and ctx.gain != 1.0:
            feedback = feedback * ctx.gain  # a kernel is far smaller than the error map
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            error, x, feedback, ctx.bias_size, stride, padding, dilation, False, [0] * len(stride), groups,
            [needs_x, needs_weight, needs_bias],
        )  # fmt: skip
        return grad_x, grad_weight, grad_bias, grad_weight if needs_stored and needs_weight else None, None, None, None


def _product_into(unused: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """left @ right, written into a matrix that is no longer needed, if possible.

    So feedback that is derived in the backward pass needs no more memory than backprop; allocating a matrix of the
    weight's size at every step took longer than deriving it. Under transforms and compilers it is a plain product.
    """
    if unused is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return left @ right
    return torch.mm(left, right, out=unused)


def linear_feedback(
    x: Tensor, weight: Tensor, bias: Tensor | None, stored: Tensor | None, matrix: Matrix, gain: float
) -> Tensor:
    """Linear layer with B in its backward pass, (*, i) to (*, o).

    Args:
        x: (*, i).
        weight: (o, i).
        bias: (o,) or None.
        stored: (o, i), what the layer stores of B, or None; if it requires a gradient, it receives that of the weight.
        matrix: of weight and stored to B (o, i); called in the backward pass.
        gain: constant factor on B.
    """
    return LinearFeedback.apply(*under_autocast(x, weight, bias, stored), matrix, gain)


def conv_feedback(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stored: Tensor | None,
    matrix: Matrix,
    gain: float,
    geometry: Geometry,
) -> Tensor:
    """Convolution (1-D, 2-D or 3-D) with B in its backward pass, (n, i, *space) to (n, o, *space').

    Args:
        x: (n, i, *space).
        weight: (o, i / groups, *k).
        bias: (o,) or None.
        stored: of the weight's shape, what the layer stores of B, or None; if it requires a gradient, it receives that
            of the weight.
        matrix: of weight and stored to B, of the weight's shape; called in the backward pass.
        gain: constant factor on B.
        geometry: stride, padding with zeros and dilation, a list each, and the number of groups.
    """
    return ConvFeedback.apply(*under_autocast(x, weight, bias, stored), matrix, gain, geometry)


def under_autocast(x: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors, cast as autocast would cast them at a matrix product, but outside the custom autograd node.

    The backward pass of a custom node runs without autocast, so its operands would otherwise have different types.

    Args:
        x: any shape; its device decides which autocast counts.
        others: any shapes, or None, which stays None.

    Returns:
        All of them, of the same shapes.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return (x, *others)
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t if t is None else t.to(dtype) for t in (x, *others))
