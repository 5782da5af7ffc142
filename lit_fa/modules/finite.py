"""A loss that is not finite: the error, and where the first such value occurs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError


class NonFiniteLossError(UserError):
    """Training is stopped before the step that would make the weights NaN.

    Attributes:
        diverged: the entry of the run's record.
    """

    def __init__(self, fact: str, remedy: str = "", *, step: int | None = None, first: str = ""):
        """Compose the message.

        Args:
            fact: what happened.
            remedy: what to do; not part of the record.
            step: optimiser step, or federated round, whose loss is not finite.
            first: what was not finite first, as `first_non_finite` names it.
        """
        super().__init__(". ".join(part for part in (fact, remedy) if part))
        self.diverged = {"step": step, "first": first, "error": fact}

    @classmethod
    def of(cls, network: nn.Module, inputs: Tensor, loss: Tensor, step: int) -> "NonFiniteLossError":
        """The error of a training step with this loss."""
        first = first_non_finite(network, inputs)
        return cls(
            f"loss is {loss.item()} at step {step}; first not finite: {first}",
            "The last checkpoint stays; lower the learning rate or set model.init_args.clip.",
            step=step,
            first=first,
        )


def first_non_finite(network: nn.Module, inputs: Tensor) -> str:
    """The name of the first tensor of a forward pass that is not finite: inputs, a parameter, or a module's output."""
    if not _finite(inputs):
        return "the inputs"
    for name, p in network.named_parameters():
        if not _finite(p):
            return f"parameter {name}"
    with watched(network) as modules, torch.no_grad():
        network(inputs)
    return f"the output of {modules[0]}" if modules else "the loss itself"


@contextmanager
def watched(network: nn.Module) -> Iterator[list[str]]:
    """Within the context, the names of modules whose outputs are not finite are appended, in order of execution."""
    modules: list[str] = []

    def check(name: str, output: object) -> None:
        if isinstance(output, Tensor) and not _finite(output):
            modules.append(name)

    # a module returns after its submodules, so the first name is that of the innermost module
    hooks = [m.register_forward_hook(lambda _m, _a, out, n=n: check(n, out)) for n, m in network.named_modules()]
    try:
        yield modules
    finally:
        for hook in hooks:
            hook.remove()


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
