"""Runs a network without changing its state."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_fa.layers.hooks import after


class Call(NamedTuple):
    """One call of a module in a forward pass: its name, positional inputs and output."""

    name: str
    inputs: tuple[Any, ...]
    output: Any

    @property
    def tensor(self) -> Any:
        """The output, or the first entry of an output that is a tuple."""
        return self.output[0] if isinstance(self.output, tuple) else self.output


def calls(network: nn.Module, example: Tensor, names: Iterable[str]) -> list[Call]:
    """Every call of the named modules in one forward pass without graph, in the order in which they return.

    The state of the network is not changed.

    Args:
        network: any module; its own name is "".
        example: (n, ...) inputs.
        names: of modules.
    """
    with observing(network), torch.no_grad(), recording(network, names) as recorded:
        network(example)
    return recorded


@contextmanager
def recording(network: nn.Module, names: Iterable[str]) -> Iterator[list[Call]]:
    """Within, every call of the named modules is recorded.

    A recorded graph must be used inside `observing`, which at its end writes into the buffers that the graph refers to.
    """
    recorded: list[Call] = []

    def record(name: str, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        recorded.append(Call(name, inputs, output))

    hooks = [after(network.get_submodule(name), partial(record, name)) for name in names]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def observing(network: nn.Module) -> Iterator[None]:
    """Restore random state, buffers, training mode and gradients of `network` at the end of the block.

    A forward pass in training mode changes BatchNorm's running statistics and the random state (dropout), so without
    this a measurement would change the run.

    >>> norm = nn.BatchNorm1d(2)
    >>> with observing(norm):
    ...     _ = norm(torch.ones(4, 2))
    >>> norm.running_mean
    tensor([0., 0.])
    """
    devices = dict.fromkeys(t.device for t in network.parameters() if t.device.type == "cuda")
    buffers = {name: b.detach().clone() for name, b in network.named_buffers() if b is not None}
    modes = {module: module.training for module in network.modules()}
    grads = {p: p.grad for p in network.parameters()}
    for p in grads:
        p.grad = None
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for p, grad in grads.items():
            p.grad = grad
        with torch.no_grad():
            for name, b in network.named_buffers():
                b.copy_(buffers[name])


@contextmanager
def unfrozen(network: nn.Module) -> Iterator[set[str]]:
    """Within, every parameter requires a gradient, also frozen ones; yields the names of the frozen ones."""
    frozen = {name: p for name, p in network.named_parameters() if not p.requires_grad}
    try:
        for p in frozen.values():
            p.requires_grad_(True)
        yield {*frozen}
    finally:
        for p in frozen.values():
            p.requires_grad_(False)
