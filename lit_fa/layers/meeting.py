"""Whether the backward pass of an operation sends error through a weight to an activation.

This holds for products, recurrent layers, any `autograd.Function` that is not ours, and every operation that is not
listed here. It does not hold for sums and concatenations, normalisations, scalings, and our own functions, whose
backward pass uses the feedback.
"""

from collections.abc import Sequence

from torch.autograd.graph import Node

from lit_fa.functional.fused import ConvFeedback, LinearFeedback
from lit_fa.layers.factored import FeedbackThrough
from lit_fa.layers.graph import Consumers, operation, shape_of

# compared by identity, because another class may have the same name
OWN = {function._backward_cls for function in (LinearFeedback, ConvFeedback, FeedbackThrough)}
# autograd's names of operations that add, select or place entries and do not multiply
JOINS = {
    "Add", "Sub", "Rsub", "Cat", "Stack", "Where", "Maximum", "Minimum", "Fmax", "Fmin", "Clamp", "ClampMin",
    "ClampMax", "Copy", "CopySlices", "IndexPut", "IndexPutImpl", "IndexAdd", "IndexCopy", "Scatter", "ScatterAdd",
    "SliceScatter", "SelectScatter", "DiagonalScatter", "AsStridedScatter", "MaskedScatter",
}  # fmt: skip
NORMALISATIONS = {
    "NativeBatchNorm", "NativeBatchNormLegit", "BatchNormWithUpdate", "CudnnBatchNorm", "MiopenBatchNorm",
    "NativeLayerNorm", "NativeGroupNorm", "FusedRmsNorm", "RmsNorm",
}  # fmt: skip
ELEMENTWISE = {"Mul", "Div", "Pow", "Addcmul", "Addcdiv", "Lerp", "Prelu", "PreluKernel"}
PRODUCTS = {"Mm", "Mv", "Dot", "Vdot", "Bmm", "Addmm", "Addmv", "Addbmm", "Baddbmm"}  # possible with a vector
# operation to the index of the input that is added to its result
ADDED = dict.fromkeys(("Addmm", "Addmv", "Addbmm", "Baddbmm", "Addr", "Addcmul", "Addcdiv"), 0) | dict.fromkeys(
    (f"ScaledDotProduct{kind}" for kind in ("EfficientAttention", "CudnnAttention", "FusedAttentionOverrideable")), 3
)
RECURRENT = {"MkldnnRnnLayer", "CudnnRnn", "MiopenRnn"}  # carry error from step to step inside one node
SUMS = {"Sum", "Mean"}


def transports(node: Node, weight: Node, carrying: Sequence[Node], consumers: Consumers, *, vector: bool) -> bool:
    """Whether error goes from the output of `node` through its input `weight` to its inputs `carrying`.

    Args:
        node: an operation with the inputs `weight` and `carrying`.
        weight: a parameter, or a tensor computed from one.
        carrying: the other inputs of `node` from which error reaches a trained tensor.
        consumers: of the graph.
        vector: the weight is one-dimensional: error passes through such a bias or scale only in matrix products.
    """
    name = operation(node)
    place, output = next((i, output) for i, (child, output) in enumerate(node.next_functions) if child is weight)
    if type(node) in OWN or name in JOINS or name in NORMALISATIONS or ADDED.get(name) == place:
        return False
    if name in ELEMENTWISE:
        widened = any(shape_of(child, i) != shape_of(node) for child, i in _inputs(node) if child in carrying)
        return widened or _summed(node, _own_shape(weight, output), consumers)
    return name in PRODUCTS if vector else True


def _summed(scaled: Node, scale: tuple[int, ...], consumers: Consumers) -> bool:
    """Whether a product is summed over a dimension of the scale, which makes it an inner product."""
    dims = len(shape_of(scaled))
    differs = {dims - len(scale) + i for i, size in enumerate(scale) if size > 1}
    for reader in consumers.get(scaled, ()):
        if operation(reader) in SUMS and hasattr(reader, "_saved_dim"):
            over = {_signed(dim) % dims for dim in reader._saved_dim or ()}
            if 0 not in over and over & differs:  # 0: a sum over samples, the loss or a statistic
                return True
    return False


def _own_shape(node: Node, output: int) -> tuple[int, ...]:
    """Shape before any expansion."""
    while operation(node) == "Expand":
        node, output = _inputs(node)[0]
    return shape_of(node, output)


def _inputs(node: Node) -> list[tuple[Node, int]]:
    """The nodes that `node` reads, each with the number of the output that it reads."""
    return [(child, output) for child, output in node.next_functions if child is not None]


def _signed(dim: int) -> int:
    return dim - 2**64 if dim >= 2**63 else dim  # autograd stores a negative dimension as an unsigned number
