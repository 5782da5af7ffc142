r"""Which weights does a rule reach? What it does not reach is named, and refused unless told otherwise.

Module surgery misses a weight that a network uses outside its module's forward: `nn.MultiheadAttention` multiplies by
`in_proj_weight` itself, some timm blocks call ``F.linear(x, self.qkv.weight)``. Such a weight would silently stay
backprop. So coverage is read off the autograd graph of the rule's own scalar: a weight that meets an error-carrying
activation in a matrix product transports error by its own transpose, whatever module it sits in.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_PRODUCTS = ("addmm", "mm", "bmm", "baddbmm", "conv", "linear", "einsum", "addbmm", "mv")


@dataclass(frozen=True)
class Coverage:
    """What a rule does with the trainable tensors of a network.

    Attributes:
        transported: weights through whose own transpose error travels (backprop) to something that is trained.
        unreached: trainable tensors that receive no gradient at all.
    """

    transported: list[str]
    unreached: list[str]


def coverage(network: nn.Module, value: Tensor, frozen: Collection[str] = ()) -> Coverage:
    """Read the graph behind `value`, the rule's scalar on one batch, for the parameters of `network`.

    Build `value` with every parameter requiring gradient, frozen ones too: a frozen weight carries error all the same,
    if anything below it is trained.

    Args:
        network: installed.
        value: scalar.
        frozen: names of parameters that are not trained.
    """
    consumers = consumers_of(value.grad_fn)
    leaves = {id(node.variable): node for node in consumers if hasattr(node, "variable")}
    params = {name: p for name, p in network.named_parameters() if not name.endswith("feedback.weight")}
    reached = {name for name, p in params.items() if id(p) in leaves}
    trained = [leaves[id(params[name])] for name in reached if name not in frozen]
    led_on = _users(trained, consumers)  # from these nodes error reaches something that is trained
    carries = [
        name
        for name in reached
        if params[name].ndim > 1 and _carries_error(leaves[id(params[name])], consumers, led_on)
    ]
    return Coverage(sorted(carries), sorted(set(params) - reached))


def consumers_of(root: torch.autograd.graph.Node) -> dict:
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


def _users(leaves: list[torch.autograd.graph.Node], consumers: dict) -> set:
    """The nodes whose outputs depend on any of the leaves."""
    found, stack = set(), [*leaves]
    while stack:
        new = {user for user in consumers[stack.pop()] if user not in found}
        found |= new
        stack += new
    return found


def _carries_error(leaf: torch.autograd.graph.Node, consumers: dict, led_on: set) -> bool:
    """Follow a parameter, alone or together with other parameters, to where it first meets an activation."""
    stack, seen = [leaf], set()
    while stack:
        node = stack.pop()
        for user in consumers[node]:
            if user in seen:
                continue
            seen.add(user)
            name = user.name().lower()
            others = [n for n, _ in user.next_functions if n is not None and n is not node]
            # our own node: the error leaves through the feedback; an embedding: what it reads are integers
            if "feedback" in name or "embedding" in name:
                continue
            if any(p in name for p in _PRODUCTS):
                if any(n in led_on for n in others):
                    return True
            elif all(_made_of_parameters(n) for n in others):
                stack.append(user)
    return False


def _made_of_parameters(node: torch.autograd.graph.Node) -> bool:
    """True for a parameter and for what casts and reshapes make of one."""
    while not hasattr(node, "variable"):
        children = [child for child, _ in node.next_functions if child is not None]
        if len(children) != 1:
            return False
        node = children[0]
    return True
