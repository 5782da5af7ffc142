"""Several learners of one kind at once through `torch.vmap`: any rule on any network that vmap can map.

Only tensors may differ between them: what a rule reads from Python attributes is that of one learner.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import grad, vmap

from lit_fa.rules.base import Does, Tensors
from lit_fa.rules.learner import Learner


def why_not_mapped(learner: Learner) -> str | None:
    """Why this learner cannot be mapped, in one sentence, or None. Errors of vmap itself occur only when it runs."""
    for name, module in learner.named_modules():
        dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p
        if dropout or getattr(module, "drop_prob", None):
            return f"{name} draws random numbers: vmap would draw others than a client alone"
    if getattr(learner.rule, "storage", "kept") == "redrawn":
        return "redrawn feedback is drawn in the backward pass, where vmap draws nothing"
    if getattr(learner.rule, "schedule", "simultaneous") == "greedy":
        return "whose turn it is in a greedy schedule is the state of a client alone"
    return None


def why_not_stacked(learner: Learner) -> str | None:
    """As `why_not_mapped`, for learners whose own tensors become slices of stacked ones."""
    if Does.RESHAPES in learner.rule.does:
        return f"{type(learner.rule).__name__} changes the shapes of weights"
    return why_not_mapped(learner)


def mapped(value: Callable[..., tuple[Tensor, Any]]) -> Callable[..., tuple[Tensors, Any]]:
    """From (params, ...) of several learners, stacked, to the gradients of `value` and its second result."""
    return vmap(grad(value, has_aux=True))


def statics(learner: Learner) -> tuple[Any, ...]:
    """What learners must have in common to be mapped: everything that a surrogate may read and that is no tensor.

    Seeds count only where a surrogate draws, in `ForwardForward`; elsewhere they have decided tensors.
    """
    draws = type(learner.rule).__name__ == "ForwardForward"
    modules = [(name, _described(module, draws)) for name, module in learner.named_modules()]
    named = [*learner.named_parameters(), *learner.named_buffers()]
    shapes = [(name, t.shape, t.dtype, t.requires_grad) for name, t in named]
    return (*modules, learner.criterion, *shapes)


_TABLES = {name for name in vars(nn.Module()) if name.startswith("_")}


def _described(value: Any, draws: bool, depth: int = 4) -> Any:
    """A value as nested tuples without addresses, so that equal ones are equal."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, Tensor):
        return "tensor", tuple(value.shape)
    if isinstance(value, dict):
        return tuple((str(key), _described(entry, draws, depth - 1)) for key, entry in value.items() if depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(_described(entry, draws, depth - 1) for entry in value if depth)
    name = getattr(value, "__qualname__", "")
    if name or not depth or not hasattr(value, "__dict__"):
        return name or type(value).__qualname__
    skipped = {*_TABLES, "constructor", *(() if draws else ("seed", "_seed"))}  # the constructor's arguments, for print
    own = {key: entry for key, entry in vars(value).items() if key not in skipped}
    return type(value).__qualname__, _described(own, draws, depth - 1)
