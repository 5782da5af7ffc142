"""How a network is wired, read off one forward pass: which layer follows which, through what, and what feeds back.

Read off the autograd graph rather than off modules, so that a residual branch, a functional activation or a second
reader of a layer's output is seen.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_fa.layers import WEIGHT_LAYERS, consumers_of, observing


@dataclass
class Wiring:
    """One forward pass.

    Attributes:
        calls: names of modules in the order in which they return; a module that runs twice is there twice.
        inputs: weight layer to the node of its input; None where no gradient is needed.
        outputs: module to the node of its output.
        owners: node to the innermost module whose output it is.
        shapes: module to the shape of its output without the batch.
        readers: node to the nodes that read its output.
    """

    calls: list[str] = field(default_factory=list)
    inputs: dict[str, Node | None] = field(default_factory=dict)
    outputs: dict[str, Node | None] = field(default_factory=dict)
    owners: dict[Node, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    readers: dict[Node, list[Node]] = field(default_factory=dict)

    def ran_twice(self) -> set[str]:
        """Modules that run more than once in a forward pass."""
        return {name for name in self.calls if self.calls.count(name) > 1}


def trace(network: nn.Module, inputs: Tensor) -> Wiring:
    """Run `network` once on `inputs` (n, ...), unobserved, and read its wiring."""
    wiring = Wiring()

    def before(name: str, args: tuple) -> None:
        wiring.inputs[name] = args[0].grad_fn

    def after(name: str, output: object) -> None:
        wiring.calls.append(name)
        if isinstance(output, Tensor):
            wiring.shapes[name], wiring.outputs[name] = tuple(output.shape[1:]), output.grad_fn
            if output.grad_fn is not None:
                wiring.owners.setdefault(output.grad_fn, name)

    hooks = []
    for name, module in network.named_modules():
        if name:  # before a tap's own hook, which may hand on another tensor
            hooks.append(module.register_forward_hook(lambda _m, _a, out, n=name: after(n, out), prepend=True))
        if isinstance(module, WEIGHT_LAYERS):
            hooks.append(module.register_forward_pre_hook(lambda _m, args, n=name: before(n, args)))
    try:
        with observing(network), torch.enable_grad():
            logits = network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    wiring.readers = consumers_of(logits.grad_fn)
    return wiring


def parents(node: Node) -> tuple[list[Node], list[Node]]:
    """What a node reads: other nodes' outputs, and parameters."""
    read = [child for child, _ in node.next_functions if child is not None]
    return [n for n in read if not hasattr(n, "variable")], [n for n in read if hasattr(n, "variable")]
