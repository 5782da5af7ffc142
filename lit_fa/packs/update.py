"""The update of plain SGD for all lanes at once; other optimisers take each run's own step."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lit_fa.rules.base import Tensors

_OFF = ("momentum", "weight_decay", "dampening", "nesterov", "maximize", "foreach", "differentiable", "fused")


def plain_update(
    optimizers: Sequence[torch.optim.Optimizer], own: Sequence[Tensors], tensors: Tensors, grads: Tensors
) -> Callable[[], None] | None:
    r"""$W \leftarrow W - \eta G$ of all lanes, with the arithmetic of `torch.optim.SGD`; None if one is not plain.

    Args:
        optimizers: of the lanes; their rates are read now.
        own: of each lane, name to tensor.
        tensors, grads: stacked, (k, ...).
    """
    if not all(map(_is_plain, optimizers)):
        return None
    rates = [{id(p): group["lr"] for group in o.param_groups for p in group["params"]} for o in optimizers]
    steps: list[Callable[[], Tensor]] = []
    for name, grad in grads.items():
        lanes = [
            (lane, rate[id(named[name])])
            for lane, (rate, named) in enumerate(zip(rates, own, strict=True))
            if name in named and id(named[name]) in rate
        ]
        if len(lanes) == len(own) and len({rate for _, rate in lanes}) == 1:
            steps.append(partial(tensors[name].add_, grad, alpha=-lanes[0][1]))
        else:
            steps += [partial(tensors[name][lane].add_, grad[lane], alpha=-rate) for lane, rate in lanes]

    def update() -> None:
        for step in steps:
            step()

    return update


def _is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of it is `p.add_(grad, alpha=-lr)` and nothing else: no schedule or hook follows it either."""
    if type(optimizer) is not torch.optim.SGD or "step" in vars(optimizer):
        return False
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return False
    return all(isinstance(g["lr"], float) and not any(g.get(o) for o in _OFF) for g in optimizer.param_groups)
