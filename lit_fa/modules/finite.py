"""When the loss is no longer a number: where it began."""

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError


class NonFiniteLossError(UserError):
    """Training stopped before the step that would have spoilt the weights."""


def first_non_finite(network: nn.Module, inputs: Tensor) -> str:
    """Name the first thing in one forward pass that is not finite: the inputs, a parameter, or a module's output."""
    if not _finite(inputs):
        return "the inputs"
    for name, p in network.named_parameters():
        if not _finite(p):
            return f"parameter {name}"
    found: list[str] = []

    def look(name: str, output: object) -> None:
        if isinstance(output, Tensor) and not _finite(output):
            found.append(name)

    # inner modules return before those that hold them, so the first found is the innermost
    hooks = [m.register_forward_hook(lambda _m, _a, out, n=n: look(n, out)) for n, m in network.named_modules()]
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return f"the output of {found[0]}" if found else "the loss itself"


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
