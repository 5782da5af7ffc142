"""The autograd graph of a scalar: the consumers and shapes of its nodes, and the nodes that depend on the batch."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

Consumers = dict[Node, list[Node]]


def consumers_of(root: Node | None) -> Consumers:
    """Node to the nodes that use its output, for the whole graph of `root`; empty for None."""
    consumers: Consumers = defaultdict(list)
    for node in below([root]):
        consumers.setdefault(node, [])
        for child in children(node):
            consumers[child].append(node)
    return consumers


def children(node: Node) -> list[Node]:
    """The nodes that `node` sends its error to."""
    return [child for child, _ in node.next_functions if child is not None]


def below(starts: Iterable[Node | None]) -> dict[Node, None]:
    """The nodes that an error at any of `starts` reaches, including `starts`; keys, in the order of the walk."""
    reached: dict[Node, None] = {}
    stack = [node for node in starts if node is not None]
    while stack:
        node = stack.pop()
        if node not in reached:
            reached[node] = None
            stack += children(node)
    return reached


def users(nodes: Iterable[Node], consumers: Consumers) -> set[Node]:
    """The nodes whose outputs depend on the output of any of `nodes`."""
    dependent, stack = set(), [*nodes]
    while stack:
        new = {user for user in consumers.get(stack.pop(), ()) if user not in dependent}
        dependent |= new
        stack += new
    return dependent


def operation(node: Node) -> str:
    """Name of torch's own operation, such as `Mul`; empty for an `autograd.Function` of any name.

    >>> operation((torch.ones(2, requires_grad=True) * 2).grad_fn)
    'Mul'
    """
    if isinstance(node, BackwardCFunction):
        return ""
    name = re.fullmatch(r"(\w+?)(Backwards?\d*)?", node.name())
    return name[1] if name else ""


def shape_of(node: Node, output: int = 0) -> tuple[int, ...]:
    """Shape of an output of a node, or of a leaf."""
    return tuple(node.variable.shape if hasattr(node, "variable") else node._input_metadata[output].shape)


class DependsOnData(TorchDispatchMode):
    """Within, records the nodes whose outputs depend on the given tensors, also through stop-gradients.

    If an image needs no gradient, its product with a weight looks in the autograd graph like a product of two weights.
    Therefore memory is followed: the outputs of an operation on a followed tensor are followed too.

    >>> image, weight = torch.ones(2), torch.ones(2, requires_grad=True)
    >>> with DependsOnData([image]) as seen:
    ...     of_image, of_weight = weight * image.detach(), 2 * weight
    >>> seen.nodes() == {of_image.grad_fn}
    True
    """

    def __init__(self, tensors: Iterable[Tensor]):
        """Follow `tensors`."""
        TorchDispatchMode.__init__(self)
        self.followed: dict[int, torch.UntypedStorage] = {}
        self.outputs: list[Tensor] = []
        self.recorded: set[Node] = set()
        for tensor in tensors:
            self.follow(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation; if an input is followed, follow its outputs."""
        read = [t for t in _tensors((args, kwargs)) if _key(t) in self.followed]
        # recorded here as well, because an in-place operation gives a tensor another node
        self.recorded |= {t.grad_fn for t in read if t.grad_fn is not None}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result) if read else ():
            self.follow(tensor)
            self.outputs.append(tensor)
        return result

    def nodes(self) -> set[Node]:
        """The nodes recorded so far."""
        return self.recorded | {t.grad_fn for t in self.outputs if t.grad_fn is not None}

    def follow(self, tensor: Tensor) -> None:
        """Follow this tensor from now on."""
        if (key := _key(tensor)) is not None:
            self.followed[key] = tensor.untyped_storage()  # referenced, so that its address is not used again


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in the arguments or the result of an operation."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _key(tensor: Tensor) -> int | None:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else None
