"""The update of plain SGD for all lanes at once; other optimisers take each run's own step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_fa.rules.base import Tensors

Rate = tuple[float, float]  # learning rate and weight decay
_OFF = ("momentum", "dampening", "nesterov", "maximize", "foreach", "differentiable", "fused")


@dataclass(frozen=True)
class Update:
    """The update of all lanes.

    Attributes:
        steps: one or more for each stacked parameter.
        rates: what they have been made with; an update with equal rates does the same.
    """

    steps: Sequence[Callable[[], Tensor]]
    rates: tuple[tuple[Rate, ...], ...]

    def __call__(self) -> None:
        """Change the weights."""
        for step in self.steps:
            step()


def plain_update(
    optimizers: Sequence[torch.optim.Optimizer], own: Sequence[Tensors], tensors: Tensors, grads: Tensors
) -> Update | None:
    r"""$W \leftarrow W - \eta (G + \lambda W)$ of all lanes, with the arithmetic of `torch.optim.SGD`.

    None if the optimiser of one lane does anything else.

    Args:
        optimizers: of the lanes; their rates are read now.
        own: of each lane, name to tensor.
        tensors, grads: stacked, (k, ...).
    """
    if not all(map(_is_plain, optimizers)):
        return None
    rates = [{id(p): _rate(group) for group in o.param_groups for p in group["params"]} for o in optimizers]
    steps: list[Callable[[], Tensor]] = []
    for name, grad in grads.items():
        lanes = [
            (lane, rate[id(named[name])])
            for lane, (rate, named) in enumerate(zip(rates, own, strict=True))
            if name in named and id(named[name]) in rate
        ]
        if len(lanes) == len(own) and len({rate for _, rate in lanes}) == 1:
            steps.append(_step(tensors[name], grad, lanes[0][1]))
        else:
            steps += [_step(tensors[name][lane], grad[lane], rate) for lane, rate in lanes]
    return Update(steps, tuple(tuple(_rate(group) for group in o.param_groups) for o in optimizers))


def _rate(group: dict[str, Any]) -> Rate:
    return float(group["lr"]), float(group["weight_decay"])


def _step(weight: Tensor, grad: Tensor, rate: Rate) -> Callable[[], Tensor]:
    lr, decay = rate
    if decay == 0.0:
        return partial(weight.add_, grad, alpha=-lr)
    return lambda: weight.add_(grad.add(weight, alpha=decay), alpha=-lr)


def _is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of it is `p.add_(grad + decay p, alpha=-lr)` and nothing else, such as a schedule or a hook."""
    if type(optimizer) is not torch.optim.SGD or "step" in vars(optimizer):
        return False
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return False
    return all(isinstance(g["lr"], float) and not any(g.get(o) for o in _OFF) for g in optimizer.param_groups)
