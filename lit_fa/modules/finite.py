"""When the loss is no longer a number: where it began."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError


class NonFiniteLossError(UserError):
    """Training stopped before the step that would have spoilt the weights.

    `diverged`: what a record of the run says of it.
    """

    def __init__(self, fact: str, remedy: str = "", *, step: int | None = None, first: str = ""):
        """Say it in one line.

        Args:
            fact: what happened.
            remedy: what to do; a record leaves it out.
            step: optimiser step, or federated round, of which the loss is not finite.
            first: what was not finite first, in the words of `first_non_finite`.
        """
        super().__init__(". ".join(part for part in (fact, remedy) if part))
        self.diverged = {"step": step, "first": first, "error": fact}


def first_non_finite(network: nn.Module, inputs: Tensor) -> str:
    """Name the first thing in one forward pass that is not finite: the inputs, a parameter, or a module's output."""
    if not _finite(inputs):
        return "the inputs"
    for name, p in network.named_parameters():
        if not _finite(p):
            return f"parameter {name}"
    with watched(network) as found, torch.no_grad():
        network(inputs)
    return f"the output of {found[0]}" if found else "the loss itself"


@contextmanager
def watched(network: nn.Module) -> Iterator[list[str]]:
    """Inside, the names of modules whose outputs are not finite are appended to the list, in the order of time."""
    found: list[str] = []

    def look(name: str, output: object) -> None:
        if isinstance(output, Tensor) and not _finite(output):
            found.append(name)

    # inner modules return before those that hold them, so the first found is the innermost
    hooks = [m.register_forward_hook(lambda _m, _a, out, n=n: look(n, out)) for n, m in network.named_modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
