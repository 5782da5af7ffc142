r"""The fast road of feedback alignment: one autograd node a layer, which sends the error back through B.

$\delta_{l-1} = \delta_l B_l$ where backprop has $W_l$; the gradient of the weight is exact. A node issues the products
of backprop and no other: no second forward, no input gradient where nobody asked for one. Letters: n batch (any number
of leading dimensions for linear layers), i in, o out.

`matrix(weight, stored)` makes B inside the backward pass. So a matrix that follows from the weight (its sign, say) is
never kept between the passes, and it is freed before the weight's gradient is made.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Matrix = Callable[[Tensor, Tensor | None], Tensor]


class LinearFeedback(torch.autograd.Function):
    """`F.linear` whose input gradient is gain * error @ matrix(weight, stored)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, stored, matrix, gain):  # noqa: D102
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, _output):  # noqa: D102
        x, weight, _, stored, ctx.matrix, ctx.gain = inputs
        ctx.save_for_backward(x, weight, stored)

    @staticmethod
    def backward(ctx, error):  # noqa: D102
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
        # Kolen-Pollack: trained feedback receives the weight's own increment, none where the weight is frozen
        return grad_x, grad_weight, grad_bias, grad_weight if needs_stored and needs_weight else None, None, None


class ConvFeedback(torch.autograd.Function):
    """Convolution (1-D, 2-D or 3-D) whose input gradient goes through gain * matrix(weight, stored).

    `geometry` is (stride, padding, dilation, groups), each a list but the last, with zero padding only.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, stored, matrix, gain, geometry):  # noqa: D102
        stride, padding, dilation, groups = geometry
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)

    @staticmethod
    def setup_context(ctx, inputs, _output):  # noqa: D102
        x, weight, bias, stored, ctx.matrix, ctx.gain, ctx.geometry = inputs
        ctx.save_for_backward(x, weight, stored)
        ctx.bias_size = None if bias is None else [weight.shape[0]]

    @staticmethod
    def backward(ctx, error):  # noqa: D102
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


def _product_into(spent: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """left @ right, in the memory of a matrix that is no longer needed where that is possible.

    So feedback derived in the backward pass takes no weight-sized memory that backprop does not take; fetching such
    memory anew at every step cost more than the derivation. Transforms and compilers trace the plain product.
    """
    if spent is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return left @ right
    return torch.mm(left, right, out=spent)


def linear_feedback(x: Tensor, weight: Tensor, bias: Tensor | None, stored: Tensor | None, matrix: Matrix, gain: float):
    """Linear layer that backpropagates through B; see `LinearFeedback`. x: (*, i) to (*, o)."""
    return LinearFeedback.apply(*under_autocast(x, weight, bias, stored), matrix, gain)


def conv_feedback(
    x: Tensor, weight: Tensor, bias: Tensor | None, stored: Tensor | None, matrix: Matrix, gain: float, geometry: tuple
):
    """Convolution that backpropagates through B; see `ConvFeedback`. x: (n, i, *space) to (n, o, *space)."""
    return ConvFeedback.apply(*under_autocast(x, weight, bias, stored), matrix, gain, geometry)


def under_autocast(x: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """The casts that autocast would make at a matrix product, made where autograd sees them.

    Inside a custom node the backward pass runs without autocast, so operands of two types would meet there.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return (x, *others)
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t if t is None else t.to(dtype) for t in (x, *others))
