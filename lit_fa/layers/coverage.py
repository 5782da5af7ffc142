r"""The coverage check: which weights a rule reaches. The others are named, and refused by default.

Replacing modules misses a weight that is used outside its module's forward: `nn.MultiheadAttention` multiplies by
`in_proj_weight` directly, some timm blocks call ``F.linear(x, self.qkv.weight)``. Such a weight would silently be
trained by backprop. Therefore coverage is read from the autograd graph of the rule's own scalar: every parameter is
followed, alone or combined with others, to the first operation with an activation through which error flows. The error
passes through the weight there, unless the operation is known not to do so (`layers.meeting`).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, enable_grad, nn
from torch.autograd.graph import Node

from lit_fa.layers.feedback import WEIGHT_LAYERS, feedback_parameters
from lit_fa.layers.graph import Consumers, DependsOnData, children, consumers_of, operation, shape_of, users
from lit_fa.layers.hooks import before
from lit_fa.layers.meeting import PRODUCTS, RECURRENT, transports
from lit_fa.layers.observing import observing, recording

RECURRENT_LAYERS = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Coverage:
    """The trainable tensors of a network that a rule does not treat.

    Attributes:
        transported: weights whose own transpose is used in the backward pass (backprop) towards a trained tensor.
        unreached: trainable tensors that receive no gradient.
    """

    transported: list[str]
    unreached: list[str]


def coverage(
    network: nn.Module, scalar: Callable[[], Tensor], batch: Sequence[Tensor], frozen: Collection[str] = ()
) -> Coverage:
    """Read the autograd graph of a rule's scalar on one batch, for the parameters of `network`.

    All parameters must require a gradient, also frozen ones: error passes through a frozen weight as well, if a tensor
    below it is trained.

    Args:
        network: after the rule's `install`.
        scalar: computes the rule's scalar on `batch`.
        batch: inputs and targets.
        frozen: names of parameters that are not trained.

    >>> import torch
    >>> network, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(2, 4)
    >>> coverage(network, lambda: network(x).sum(), [x])  # under backprop the second weight transports the error
    Coverage(transported=['2.weight'], unreached=[])
    """
    with DependsOnData(batch) as seen, _read_by_layers(network, seen.follow):
        value = scalar()
    consumers = consumers_of(value.grad_fn)
    leaves = {id(node.variable): node for node in consumers if hasattr(node, "variable")}
    own = {id(p) for p in feedback_parameters(network)}
    params = {name: p for name, p in network.named_parameters() if id(p) not in own}
    reached = {name: leaves[id(p)] for name, p in params.items() if id(p) in leaves}
    flow = _Flow.of(consumers, seen.nodes(), [leaf for name, leaf in reached.items() if name not in frozen])
    carries = [name for name, leaf in reached.items() if flow.transports(leaf)]
    return Coverage(sorted(carries), sorted(set(params) - set(reached)))


def error_carrying_layers(network: nn.Module, example: Tensor) -> list[str]:
    """Names of the linear and conv layers below which a tensor is trained, so that error passes through them.

    Args:
        network: any module.
        example: (n, ...) inputs, whose values have no meaning.

    >>> import torch
    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> error_carrying_layers(network, torch.zeros(2, 4))  # nothing is trained below the first layer
    ['2']
    """
    layers = [name for name, module in network.named_modules() if name and isinstance(module, WEIGHT_LAYERS)]
    with observing(network), enable_grad(), recording(network, layers) as recorded:
        network(example)
    carrying = {call.name for call in recorded if call.inputs[0].requires_grad}
    return [name for name in layers if name in carrying]


@contextmanager
def _read_by_layers(network: nn.Module, follow: Callable[[Tensor], None]) -> Iterator[None]:
    """Within, follow the inputs of all layers: they are activations, even if learned (a query of attention pooling)."""
    hooks = [
        before(module, lambda _module, inputs: follow(inputs[0]))
        for module in network.modules()
        if isinstance(module, WEIGHT_LAYERS)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class _Flow:
    """A graph and the properties of its nodes.

    Attributes:
        consumers: node to the nodes that use it.
        above_trained: nodes from which error reaches a trained tensor.
        data: nodes that depend on the batch or on the input of a layer.
        signals: `data`, and nodes that depend on a product of a weight and a constant: all activations.
    """

    consumers: Consumers
    above_trained: set[Node]
    data: set[Node]
    signals: set[Node]

    @classmethod
    def of(cls, consumers: Consumers, data: set[Node], trained: list[Node]) -> "_Flow":
        data = data | users(data, consumers)
        products = {node for node in consumers if _multiplies_a_constant(node)}
        return cls(consumers, users(trained, consumers), data, data | products | users(products, consumers))

    def transports(self, leaf: Node) -> bool:
        """Whether error passes through a parameter at its first operation with an activation that carries error."""
        vector = len(shape_of(leaf)) <= 1
        stack, seen = [leaf], set()
        while stack:
            node = stack.pop()
            for user in (u for u in self.consumers[node] if u not in seen):
                seen.add(user)
                # the product of a weight and a constant is an activation if it enters another product; elsewhere it
                # may be a divisor of weights
                activations = self.signals if operation(user) in (*PRODUCTS, "Convolution") else self.data
                others = [child for child in children(user) if child is not node]
                carrying = [child for child in others if child in self.above_trained and child in activations]
                if self._through_time(user, vector) or (
                    carrying and transports(user, node, carrying, self.consumers, vector=vector and _is_vector(node))
                ):
                    return True
                if user not in self.data:  # depends on parameters only
                    stack.append(user)
        return False

    def _through_time(self, node: Node, vector: bool) -> bool:
        return not vector and operation(node) in RECURRENT and node in self.above_trained


def _is_vector(node: Node) -> bool:
    return sum(size > 1 for size in shape_of(node)) <= 1


def _multiplies_a_constant(node: Node) -> bool:
    name = operation(node)
    factors = slice(2) if name == "Convolution" else slice(-2, None) if name in PRODUCTS else slice(0)
    return any(child is None for child, _ in node.next_functions[factors])


def whose(network: nn.Module, names: Sequence[str]) -> str:
    """The part of an error message about weights that transport error: their modules, and the remedy.

    Args:
        network: any module.
        names: of weights in it.
    """
    modules = {name.rpartition(".")[0]: network.get_submodule(name.rpartition(".")[0]) for name in names}
    recurrent = [f"{name} (nn.{type(m).__name__})" for name, m in modules.items() if isinstance(m, RECURRENT_LAYERS)]
    if recurrent:
        return f"Recurrent layers get no feedback ({', '.join(recurrent[:4])}): write them with nn.Linear layers."
    return "They are used outside the forward of a linear or conv module, or belong to another kind of module."
