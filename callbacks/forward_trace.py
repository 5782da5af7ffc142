"""A trace of one forward pass: the order of the layers, and the operations between them.

It is read from the autograd graph and not from the modules, so it includes residual branches, functional activations
and further readers of a layer's output.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_fa.layers import WEIGHT_LAYERS, consumers_of, observing
from lit_fa.layers.hooks import before


@dataclass
class ForwardTrace:
    """Modules and autograd nodes of one forward pass.

    Attributes:
        calls: names of the modules in the order in which they return; a module that runs twice occurs twice.
        inputs: weight layer to the node of its input; None if the input needs no gradient.
        outputs: module to the node of its output.
        owners: node to the innermost module whose output it is.
        shapes: module to the shape of its output without the batch dimension.
        readers: node to the nodes that read its output.
    """

    calls: list[str] = field(default_factory=list)
    inputs: dict[str, Node | None] = field(default_factory=dict)
    outputs: dict[str, Node | None] = field(default_factory=dict)
    owners: dict[Node, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    readers: dict[Node, list[Node]] = field(default_factory=dict)

    def ran_twice(self) -> set[str]:
        """Names of the modules that run more than once in a forward pass."""
        return {name for name in self.calls if self.calls.count(name) > 1}


def trace(network: nn.Module, inputs: Tensor) -> ForwardTrace:
    """Run `network` once on `inputs` (n, ...) and return the trace; the network's state is not changed."""
    forward = ForwardTrace()

    def read(name: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        forward.inputs[name] = inputs[0].grad_fn

    def after(name: str, output: object) -> None:
        forward.calls.append(name)
        if isinstance(output, Tensor):
            forward.shapes[name], forward.outputs[name] = tuple(output.shape[1:]), output.grad_fn
            if output.grad_fn is not None:
                forward.owners.setdefault(output.grad_fn, name)

    hooks = []
    for name, module in network.named_modules():
        if name:  # before the hook of a tap, which may return another tensor
            hooks.append(module.register_forward_hook(lambda _m, _a, out, n=name: after(n, out), prepend=True))
        if isinstance(module, WEIGHT_LAYERS):
            hooks.append(before(module, partial(read, name)))
    try:
        with observing(network), torch.enable_grad():
            logits = network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    forward.readers = consumers_of(logits.grad_fn)
    return forward


def parents(node: Node) -> tuple[list[Node], list[Node]]:
    """The nodes whose outputs a node reads, and the nodes of the parameters that it reads."""
    read = [child for child, _ in node.next_functions if child is not None]
    return [n for n in read if not hasattr(n, "variable")], [n for n in read if hasattr(n, "variable")]
