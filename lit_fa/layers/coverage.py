r"""Which weights does a rule reach? What it does not reach is named, and refused unless told otherwise.

Module surgery misses a weight that a network uses outside its module's forward: `nn.MultiheadAttention` multiplies by
`in_proj_weight` itself, some timm blocks call ``F.linear(x, self.qkv.weight)``. Such a weight would silently stay
backprop. So coverage is read off the autograd graph of the rule's own scalar: every parameter is followed, alone or
joined with others, to where it first meets an activation that carries error. There it transports error, unless the
operation is known not to (`layers.meeting`).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_fa.layers.feedback import WEIGHT_LAYERS, feedback_parameters
from lit_fa.layers.graph import Consumers, DependsOnData, consumers_of, operation, shape_of, users
from lit_fa.layers.meeting import PRODUCTS, RECURRENT, transports

RECURRENT_LAYERS = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Coverage:
    """What a rule does with the trainable tensors of a network.

    Attributes:
        transported: weights through whose own transpose error travels (backprop) to something that is trained.
        unreached: trainable tensors that receive no gradient at all.
    """

    transported: list[str]
    unreached: list[str]


def coverage(
    network: nn.Module, scalar: Callable[[], Tensor], batch: Sequence[Tensor], frozen: Collection[str] = ()
) -> Coverage:
    """Read the graph behind a rule's scalar on one batch, for the parameters of `network`.

    Call it with every parameter requiring gradient, frozen ones too: a frozen weight carries error all the same, if
    anything below it is trained.

    Args:
        network: installed.
        scalar: computes the rule's scalar on `batch`.
        batch: inputs and targets.
        frozen: names of parameters that are not trained.
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


@contextmanager
def _read_by_layers(network: nn.Module, follow: Callable[[Tensor], None]) -> Iterator[None]:
    """What a layer reads is an activation, even where it is a learned one (a query of attention pooling)."""
    hooks = [
        module.register_forward_pre_hook(lambda _module, args: follow(args[0]) if args else None)
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
    """A graph and what is known of its nodes.

    Attributes:
        consumers: node to the nodes that use it.
        led_on: from these nodes error reaches something that is trained.
        data: they depend on the batch, or on what a layer reads.
        signals: they do, or they come of a product of a weight and a constant: they are activations.
    """

    consumers: Consumers
    led_on: set[Node]
    data: set[Node]
    signals: set[Node]

    @classmethod
    def of(cls, consumers: Consumers, data: set[Node], trained: list[Node]) -> "_Flow":
        data = data | users(data, consumers)
        made = {node for node in consumers if _multiplies_a_constant(node)}
        return cls(consumers, users(trained, consumers), data, data | made | users(made, consumers))

    def transports(self, leaf: Node) -> bool:
        """Follow a parameter to where it first meets an activation that carries error."""
        vector = leaf.variable.ndim <= 1
        stack, seen = [leaf], set()
        while stack:
            node = stack.pop()
            for user in (u for u in self.consumers[node] if u not in seen):
                seen.add(user)
                # what a weight makes of a constant is an activation to a product; weights are divided by it elsewhere
                activations = self.signals if operation(user) in (*PRODUCTS, "Convolution") else self.data
                others = [n for n, _ in user.next_functions if n is not None and n is not node]
                carrying = [n for n in others if n in self.led_on and n in activations]
                if self._through_time(user, vector) or (
                    carrying and transports(user, node, carrying, self.consumers, vector=vector and _is_vector(node))
                ):
                    return True
                if user not in self.data:  # still made of parameters alone
                    stack.append(user)
        return False

    def _through_time(self, node: Node, vector: bool) -> bool:
        return not vector and operation(node) in RECURRENT and node in self.led_on


def _is_vector(node: Node) -> bool:
    return sum(size > 1 for size in shape_of(node)) <= 1


def _multiplies_a_constant(node: Node) -> bool:
    factors = {"Convolution": slice(2)}.get(operation(node), slice(-2, None) if operation(node) in PRODUCTS else None)
    return factors is not None and any(child is None for child, _ in node.next_functions[factors])


def whose(network: nn.Module, names: Sequence[str]) -> str:
    """What is to be said of weights that transport error: whose they are, and what to do."""
    modules = {name.rpartition(".")[0]: network.get_submodule(name.rpartition(".")[0]) for name in names}
    recurrent = [f"{name} (nn.{type(m).__name__})" for name, m in modules.items() if isinstance(m, RECURRENT_LAYERS)]
    if recurrent:
        return f"Recurrent layers get no feedback ({', '.join(recurrent[:4])}): write them with nn.Linear layers."
    return "They are used outside a linear or conv module's own forward, or are no such module."
