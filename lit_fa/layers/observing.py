"""Looking at a network without changing what happens next."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def observing(network: nn.Module) -> Iterator[None]:
    """Restore random state, buffers, training mode and gradients of `network` on the way out.

    A second forward pass in training mode would move BatchNorm's running statistics and the dropout stream; a probe
    that does so changes the run it observes.
    """
    devices = {t.device for t in network.parameters() if t.device.type == "cuda"}
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
