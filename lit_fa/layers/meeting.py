"""What happens where a weight meets an activation that carries error: does the error go back through the weight?

Everything that is not known here does: a product, a recurrent layer, somebody's own `autograd.Function`. What does not:
sums and other ways to put tensors side by side, normalisations, a scaling, and our own functions, which send the error
through the feedback.
"""

from collections.abc import Sequence

from torch.autograd.graph import Node

from lit_fa.functional.fused import ConvFeedback, LinearFeedback
from lit_fa.layers.factored import FeedbackThrough
from lit_fa.layers.graph import Consumers, operation, shape_of

# known by identity: whatever else is called so is not ours
OWN = {function._backward_cls for function in (LinearFeedback, ConvFeedback, FeedbackThrough)}
# autograd's names of operations that add, choose or place entries and multiply nothing
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
PRODUCTS = {"Mm", "Mv", "Dot", "Vdot", "Bmm", "Addmm", "Addmv", "Addbmm", "Baddbmm"}  # that a vector can take part in
# operation to the place of the input that is added to its result
ADDED = dict.fromkeys(("Addmm", "Addmv", "Addbmm", "Baddbmm", "Addr", "Addcmul", "Addcdiv"), 0) | dict.fromkeys(
    (f"ScaledDotProduct{kind}" for kind in ("EfficientAttention", "CudnnAttention", "FusedAttentionOverrideable")), 3
)
RECURRENT = {"MkldnnRnnLayer", "CudnnRnn", "MiopenRnn"}  # carry error from step to step inside one node
SUMS = {"Sum", "Mean"}


def transports(node: Node, weight: Node, carrying: Sequence[Node], consumers: Consumers, *, vector: bool) -> bool:
    """Whether error goes from the output of `node` through `weight`, which it reads, to what is `carrying`.

    Args:
        node: reads `weight` and `carrying`.
        weight: a parameter, or what became of it.
        carrying: the other inputs of `node` through which error reaches something that is trained.
        consumers: of the graph.
        vector: the weight is one-dimensional; such a bias or scale transports in a product of matrices alone.
    """
    name = operation(node)
    place, output = next((i, output) for i, (child, output) in enumerate(node.next_functions) if child is weight)
    if type(node) in OWN or name in JOINS or name in NORMALISATIONS or ADDED.get(name) == place:
        return False
    if name in ELEMENTWISE:
        widened = any(shape_of(child, i) != shape_of(node) for child, i in node.next_functions if child in carrying)
        return widened or _summed(node, _own_shape(weight, output), consumers)
    return name in PRODUCTS if vector else True


def _summed(scaled: Node, scale: tuple[int, ...], consumers: Consumers) -> bool:
    """Whether a product is summed over a dimension in which the scale differs: then it is an inner product."""
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
        node, output = node.next_functions[0]
    return shape_of(node, output)


def _signed(dim: int) -> int:
    return dim - 2**64 if dim >= 2**63 else dim  # autograd shows a negative dimension without its sign
