"""Looking at a network without changing what happens next."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Call(NamedTuple):
    """One run of a module in a forward pass: its name, its positional inputs, and what it returned."""

    name: str
    inputs: tuple
    output: object

    @property
    def tensor(self) -> object:
        """What was returned; of a tuple its first entry."""
        return self.output[0] if isinstance(self.output, tuple) else self.output


def calls(network: nn.Module, example: Tensor, names: Iterable[str]) -> list[Call]:
    """Every call of the named modules in one observed forward pass, without a graph, in the order of their returns.

    Args:
        network: any module; "" names itself.
        example: (n, ...) inputs.
        names: of modules.
    """
    with observing(network), torch.no_grad(), recording(network, names) as made:
        network(example)
    return made


@contextmanager
def recording(network: nn.Module, names: Iterable[str]) -> Iterator[list[Call]]:
    """Within, every call of the named modules is noted.

    A graph is of use only inside `observing`, whose end writes into the buffers that the graph has kept.
    """
    made: list[Call] = []
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _m, args, out, n=name: made.append(Call(n, args, out)))
        for name in names
    ]
    try:
        yield made
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def observing(network: nn.Module) -> Iterator[None]:
    """Restore random state, buffers, training mode and gradients of `network` on the way out.

    A second forward pass in training mode would move BatchNorm's running statistics and the dropout stream; a probe
    that does so changes the run it observes.
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
    """Within, every parameter requires a gradient, frozen ones too; yields the names of those."""
    frozen = {name: p for name, p in network.named_parameters() if not p.requires_grad}
    try:
        for p in frozen.values():
            p.requires_grad_(True)
        yield {*frozen}
    finally:
        for p in frozen.values():
            p.requires_grad_(False)
