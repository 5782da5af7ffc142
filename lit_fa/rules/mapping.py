"""Several learners of one kind at once through `torch.vmap`: any rule on any network that vmap can map.

Only tensors may differ between them: what a rule reads from Python attributes is that of one learner.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
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
            return f"{name} draws random numbers, and vmap would draw others than each learner alone"
    if getattr(learner.rule, "storage", "kept") == "redrawn":
        return "redrawn feedback is drawn in the backward pass, where vmap draws nothing"
    if getattr(learner.rule, "schedule", "simultaneous") == "greedy":
        return "whose turn it is in a greedy schedule is the state of each learner alone"
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


def _described(value: Any, draws: bool, depth: int = 10) -> Any:
    """A value as nested tuples without addresses, so that equal ones are equal; what cannot be told is its identity."""
    if isinstance(value, (str, int, float, bool, type(None), type)):
        return value
    if isinstance(value, Tensor):
        return "tensor", tuple(value.shape)
    if not depth:
        return id(value)
    within = partial(_described, draws=draws, depth=depth - 1)
    if isinstance(value, Mapping):
        return tuple((str(key), within(entry)) for key, entry in value.items())
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(str(within(entry)) for entry in value))
    if isinstance(value, (list, tuple)):
        return tuple(map(within, value))
    if isinstance(value, partial):
        return within((value.func, value.args, value.keywords))
    if isinstance(value, FunctionType):
        return value.__qualname__, within([cell.cell_contents for cell in value.__closure__ or ()])
    if not hasattr(value, "__dict__"):
        return id(value)
    skipped = {*_TABLES, "constructor", *(() if draws else ("seed", "_seed"))}  # the constructor's arguments, for print
    return type(value).__qualname__, within({key: entry for key, entry in vars(value).items() if key not in skipped})
