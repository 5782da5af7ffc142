r"""Block boundaries with stop-gradients, for rules that do not backpropagate between blocks.

DFA, DRTP and Forward-Forward send no error across a block boundary. The input of the next block requires no gradient,
so no input gradient of its first layer is computed; this reduces the cost to two thirds of backprop's. A block is
usually a whole residual block, because no error can pass a boundary after the addition through the skip connection.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from lit_fa.functional.credit import cut
from lit_fa.layers.factored import FactoredLayer
from lit_fa.layers.feedback import WEIGHT_LAYERS
from lit_fa.layers.graph import below, children
from lit_fa.layers.hooks import after
from lit_fa.layers.observing import Call, calls, observing, recording, unfrozen
from lit_fa.layers.transformer_points import PRESETS, transformer_points

Blocks = Literal["block", "layer", "macro", "micro"] | list[str]
Visitor = Callable[..., None]  # of a name and an output; `NormalisingTaps` also passes sums of squares
LEARNS = (*WEIGHT_LAYERS, FactoredLayer)
# parts of the names of autograd nodes
ACTIVATIONS = ("relu", "elu", "tanh", "sigmoid", "silu", "softplus", "mish", "glu", "softshrink", "hardswish")


@dataclass(frozen=True)
class Block:
    """A module that ends a block.

    Attributes:
        name: of the module in the network.
        shape: of its output without the batch, (features,), (c, h, w) or (tokens, width).
        reader: the next layer with a weight, or None.
        channels_last: the output is a map in the channels_last memory format.
    """

    name: str
    shape: tuple[int, ...]
    reader: nn.Module | None
    channels_last: bool = False


class Taps:
    """Stop-gradients after the named modules of a network, active only inside `visited_by`; without `cuts`, none.

    Attributes:
        absent: boundaries that this process does not compute (`lit_fa.parallel`): neither visitor nor stop-gradient.
        given: the boundary whose output another process has computed: a stop-gradient without visitor.
    """

    absent: frozenset[str] = frozenset()
    given: str | None = None

    def __init__(self, network: nn.Module, names: list[str], cuts: bool = True):
        """Hook the modules `names` of `network`."""
        self.visitor: Visitor | None = None
        self.names, self.cuts = names, cuts
        modules = dict(network.named_modules())
        for name in names:
            after(modules[name], partial(self.visit, name))

    @property
    def visited(self) -> list[int]:
        """The numbers of the boundaries at which the visitor is called."""
        return [i for i, name in enumerate(self.names) if name not in self.absent and name != self.given]

    def visit(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Call the visitor with the output (or its first entry) and return it with a stop-gradient."""
        if self.visitor is None or name in self.absent:
            return output
        tensor = output[0] if isinstance(output, tuple) else output
        if name != self.given:
            self.visitor(name, tensor)
        if not self.cuts:
            return output
        return (cut(tensor), *output[1:]) if isinstance(output, tuple) else cut(tensor)

    @contextmanager
    def visited_by(self, visitor: Visitor) -> Iterator[None]:
        """Within, `visitor(name, output)` is called at every block boundary, and the stop-gradients are active."""
        self.visitor = visitor
        try:
            yield
        finally:
            self.visitor = None

    def owners(self, network: nn.Module, forward: Callable[[], Tensor]) -> dict[str, int]:
        """Trainable parameter of the network to the number of its block; the head has the last number.

        A parameter that several blocks share belongs to the last of them and is listed in `shared`.
        """
        self.shared: set[str] = set()
        params = {name: p for name, p in network.named_parameters() if p.requires_grad}
        outputs: list[Tensor] = []
        owners: dict[str, int] = {}
        with observing(network), torch.enable_grad():  # until the end: restored buffers invalidate the graph
            with self.visited_by(lambda _name, output, *_: outputs.append(output)):
                outputs.append(forward())
            for number, output in enumerate(outputs):
                if output.requires_grad:
                    grads = torch.autograd.grad(output.sum(), [*params.values()], allow_unused=True)
                    reached = {name: number for name, grad in zip(params, grads, strict=True) if grad is not None}
                    self.shared |= owners.keys() & reached.keys()
                    owners |= reached
        return owners


def block_key(name: str) -> str:
    """A block's name as a key of `nn.ModuleDict`, which allows no dots; `block_name` is the inverse."""
    return name.replace(".", "/")


def block_name(key: str) -> str:
    """The block's name of a `block_key`."""
    return key.replace("/", ".")


def leaks(network: nn.Module, taps: Taps, example: Tensor) -> list[str]:
    """Parameters that receive error from more than one block, because a shortcut bypasses a stop-gradient."""
    ends: list[Tensor] = []
    with observing(network), torch.enable_grad(), taps.visited_by(lambda _name, output: ends.append(output)):
        ends.append(network(example))
    reached = [_leaves(end) for end in ends]
    names = {id(p): name for name, p in network.named_parameters()}
    several = {leaf for i, one in enumerate(reached) for other in reached[:i] for leaf in one & other}
    return sorted(names[leaf] for leaf in several if leaf in names)


def _leaves(output: Tensor) -> set[int]:
    """Ids of the leaf tensors that a gradient at `output` reaches."""
    return {id(node.variable) for node in below([output.grad_fn]) if hasattr(node, "variable")}


def find_blocks(network: nn.Module, example: Tensor, blocks: Blocks = "block") -> list[Block]:
    """The block boundaries of a network, in the order of one forward pass of `example`.

    Args:
        network: any module. Nested `nn.Sequential` children are replaced by their own children.
        example: (n, ...) one batch of inputs.
        blocks: `block`: after each child with weights (for example a residual or Transformer block) and the children
            without weights, or with normalisations only, that follow it. `layer`: likewise after every linear and conv
            layer, unless the next layer reads something else (a branch and its shortcut share a block). `macro` or
            `micro`: at one or three points of each Transformer block, see `transformer_points`. Or a list of module
            names or patterns (``blocks.*``).

    Returns:
        All blocks except the last one, the head, which is followed by the loss.

    Raises:
        ValueError: a pattern without a match (names the nearest), a module that runs twice in one forward pass or whose
            output is not a tensor, or a block that would end before its activation.

    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [(block.name, block.shape) for block in find_blocks(network, torch.zeros(2, 4))]
    [('1', (3,))]
    """
    modules = dict(network.named_modules())
    if isinstance(blocks, str) and blocks not in ("block", "layer", *PRESETS):
        raise ValueError(f"blocks is 'block', 'layer' or a list of module names, or 'macro' or 'micro', not '{blocks}'")
    if isinstance(blocks, str) and blocks in PRESETS:
        blocks = transformer_points(network, example, blocks)
    if isinstance(blocks, str):
        links = chain_of(network) if blocks == "block" else {n: m for n, m in modules.items() if _is_leaf(m)}
    else:
        links = {name: modules[name] for name in match(blocks, [n for n in modules if n])}
    recorded = calls(network, example, {**links, **{n: m for n, m in modules.items() if n and isinstance(m, LEARNS)}})
    visited = [call.name for call in recorded if call.name in links]
    if isinstance(blocks, str):  # a module without weights that runs twice (a dropout) is not a possible boundary
        visited = [name for name in visited if visited.count(name) == 1 or _learns(links[name])]
    if twice := sorted({name for name in visited if visited.count(name) > 1}):
        raise ValueError(f"no block can end at {', '.join(twice)}: it runs more than once in a forward pass")
    ends = visited
    if isinstance(blocks, str):
        units = _units(visited, links)
        read, early = _passed_on(network, example, units)
        ends = [end for _, end, _ in units] if blocks == "block" else read
        if early := [end for end in early if end in ends]:
            raise ValueError(
                f"the activation after {', '.join(early[:4])} is not a module that runs once, so the block would end "
                "before it: write it as a module of its own, or name the ends of blocks with blocks: [...]"
            )
    return [_describe(name, recorded, modules, len(example)) for name in ends]


def match(patterns: list[str], names: list[str]) -> list[str]:
    """The names that match any of the patterns (shell style), in the order of `names`.

    Raises:
        ValueError: no pattern, or a pattern without a match.

    >>> match(["blocks.*"], ["stem", "blocks.0", "blocks.1"])
    ['blocks.0', 'blocks.1']
    """
    from lit_fa.errors import nearest

    if not patterns:
        raise ValueError("an empty list names no module: leave the option out, or name modules")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"no module matches '{pattern}'; {nearest(pattern, names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def chain_of(network: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """The children of a network by name, with every Sequential or ModuleList replaced by its own children."""
    links: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, (nn.Sequential, nn.ModuleList)) or _is_stage(child):
            links |= chain_of(child, path + ".")
        else:
            links[path] = child
    return links


def _learns(module: nn.Module) -> bool:
    return any(isinstance(m, LEARNS) for m in module.modules())


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, LEARNS) or not [*module.children()]


def _is_stage(module: nn.Module) -> bool:
    """Whether a module is a stage, which has a Sequential of blocks named `blocks` (ConvNeXt, Swin)."""
    return isinstance(getattr(module, "blocks", None), (nn.Sequential, nn.ModuleList))


def _units(visited: list[str], links: dict[str, nn.Module]) -> list[tuple[str, str, str]]:
    """(child with weights, the last child of its block, the next child with weights), for all except the last."""
    starts = [i for i, name in enumerate(visited) if _learns(links[name])]
    return [(visited[i], visited[j - 1], visited[j]) for i, j in pairwise(starts)]


def _passed_on(network: nn.Module, example: Tensor, units: list[tuple[str, str, str]]) -> tuple[list[str], list[str]]:
    """Two lists of the ends of blocks.

    First, ends that depend on their block's layer and that the input of the next layer depends on; this excludes ends
    between two branches. Second, ends with an activation, and no parameter, between them and the next layer's input.
    """
    names = {name for unit in units for name in unit}
    with observing(network), unfrozen(network), torch.enable_grad(), recording(network, names) as recorded:
        with _nodes(network, [end for _, end, _ in units]) as nodes:
            network(example.clone().requires_grad_(example.is_floating_point()).clone())
        output, read = {c.name: c.output for c in recorded}, {c.name: c.inputs[0] for c in recorded if c.inputs}
        units = [unit for unit in units if unit[2] in read]
        passed = [e for layer, e, n in units if _depends(output[e], output[layer]) and _depends(read[n], output[e])]
        return passed, [e for _, e, reader in units if _activated(read[reader], nodes[e])]


@contextmanager
def _nodes(network: nn.Module, names: list[str]) -> Iterator[dict[str, Node | None]]:
    """Within, record the node of each module's output when it runs; a later in-place operation would replace it."""
    nodes: dict[str, Node | None] = {}

    def note(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        nodes[name] = getattr(output[0] if isinstance(output, tuple) else output, "grad_fn", None)

    hooks = [network.get_submodule(name).register_forward_hook(partial(note, name)) for name in names]
    try:
        yield nodes
    finally:
        for hook in hooks:
            hook.remove()


def _activated(later: object, end: Node | None) -> bool:
    """Whether there is an activation, and no parameter, between the node `end` and the tensor `later`."""
    if not isinstance(later, Tensor) or later.grad_fn is None or end is None:
        return False
    between: set[Node] = set()
    stack = [later.grad_fn]
    while stack:
        node = stack.pop()
        if node is end or node in between:
            continue
        if hasattr(node, "variable"):
            return False
        between.add(node)
        stack += children(node)
    return any(part in node.name().lower() for node in between for part in ACTIVATIONS)


def _depends(later: object, earlier: object) -> bool:
    if not (isinstance(earlier, Tensor) and isinstance(later, Tensor) and earlier.requires_grad):
        return True
    if not later.requires_grad:
        return False
    return torch.autograd.grad(later.sum(), earlier, allow_unused=True, retain_graph=True)[0] is not None


def _describe(name: str, recorded: list[Call], modules: dict[str, nn.Module], samples: int) -> Block:
    position = next(i for i, call in enumerate(recorded) if call.name == name)
    tensor = recorded[position].tensor
    if not isinstance(tensor, Tensor):
        kind = type(recorded[position].output).__name__
        raise ValueError(f"no block can end at {name}: its output is a {kind}, not a tensor")
    if len(tensor) != samples:
        rows = f"its output has {len(tensor)} rows (windows, patches) for {samples} samples"
        raise ValueError(f"no block can end at {name}: {rows}; use whole blocks, with blocks: block")
    inside = set(modules[name].modules())
    later = (modules[call.name] for call in recorded[position + 1 :])
    reader = next((m for m in later if isinstance(m, LEARNS) and m not in inside), None)
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return Block(name, tuple(tensor.shape[1:]), reader, channels_last and not tensor.is_contiguous())
