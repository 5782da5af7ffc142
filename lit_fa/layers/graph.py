"""The autograd graph behind a scalar: who uses what, of which shape, and which nodes depend on the batch."""

import re
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Consumers = dict[Node, list[Node]]


def consumers_of(root: Node) -> Consumers:
    """node -> nodes that use its output, for the whole graph behind `root`."""
    consumers, stack = defaultdict(list), [root]
    seen = {root}
    consumers[root] = []
    while stack:
        node = stack.pop()
        for child, _ in node.next_functions:
            if child is None:
                continue
            consumers[child].append(node)
            if child not in seen:
                seen.add(child)
                stack.append(child)
    return consumers


def users(nodes: Iterable[Node], consumers: Consumers) -> set[Node]:
    """The nodes whose outputs depend on any of `nodes`, those themselves left out unless they do."""
    found, stack = set(), [*nodes]
    while stack:
        new = {user for user in consumers.get(stack.pop(), ()) if user not in found}
        found |= new
        stack += new
    return found


def operation(node: Node) -> str | None:
    """Name of torch's own operation, such as `Mul`; None for an `autograd.Function`, whatever it is called.

    >>> operation((torch.ones(2, requires_grad=True) * 2).grad_fn)
    'Mul'
    """
    if isinstance(node, BackwardCFunction):
        return None
    found = re.fullmatch(r"(\w+?)(Backwards?\d*)?", node.name())
    return found[1] if found else None


def shape_of(node: Node, output: int = 0) -> tuple[int, ...]:
    """Shape of the tensor that a node of the graph made, or of a leaf."""
    return tuple(node.variable.shape if hasattr(node, "variable") else node._input_metadata[output].shape)


class DependsOnData(TorchDispatchMode):
    """Within, notes the nodes whose outputs depend on the given tensors, through cuts and detached tensors too.

    Two weights that are multiplied and a weight that multiplies an image look alike in an autograd graph if the image
    needs no gradient. So memory is followed: what an operation makes of a followed tensor is followed.

    >>> image, weight = torch.ones(2), torch.ones(2, requires_grad=True)
    >>> with DependsOnData([image]) as seen:
    ...     of_image, of_weight = weight * image.detach(), 2 * weight
    >>> seen.nodes() == {of_image.grad_fn}
    True
    """

    def __init__(self, tensors: Iterable[Tensor]):
        """Follow `tensors`."""
        super().__init__()
        self.followed = {}
        self.made: list[Tensor] = []
        self.found: set[Node] = set()
        for tensor in tensors:
            self.follow(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation and follow what it makes of a followed tensor."""
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and _key(t) in self.followed]
        # noted now as well, since writing in place gives a tensor another node
        self.found |= {t.grad_fn for t in read if t.grad_fn is not None}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made) if read else ():
            if isinstance(tensor, Tensor):
                self.follow(tensor)
                self.made.append(tensor)
        return made

    def nodes(self) -> set[Node]:
        """The nodes found so far."""
        return self.found | {t.grad_fn for t in self.made if t.grad_fn is not None}

    def follow(self, tensor: Tensor) -> None:
        """From now on, this tensor too."""
        if (key := _key(tensor)) is not None:
            self.followed[key] = tensor.untyped_storage()  # kept, so that no other tensor gets its address


def _key(tensor: Tensor) -> int | None:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else None
