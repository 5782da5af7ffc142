"""The clients' optimisers, new in every round: torch's arithmetic on dictionaries of tensors, in place.

Everything is elementwise, so stacked parameters (k, ...) and views of their first clients are updated the same way.
torch's functional forms, such as `torch.optim.adam.adam`, would need a step tensor for each parameter, and copy
gradients for weight decay.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from lit_fa.errors import UserError, check_literals
from lit_fa.rules.base import Tensors

State = dict[str, Tensors]


class LocalOptimizer:
    """Base class: `init` creates the state, `step` updates parameters and state.

    Attributes:
        lr: learning rate of round zero.
    """

    lr: float

    @property
    def plain(self) -> bool:
        """Whether a step is `p -= lr * gradient` and nothing else (weight decay counts as gradient)."""
        return False

    def init(self, params: Tensors) -> State:
        """The state before the first step of a round."""
        return {}

    def step(self, params: Tensors, grads: Tensors, state: State, step: int, lr: float) -> None:
        """One step in place; `grads` may have fewer names and is overwritten. step: counts from 0 in the round."""
        raise NotImplementedError


@dataclass(frozen=True)
class LocalSGD(LocalOptimizer):
    """Stochastic gradient descent, as `torch.optim.SGD`.

    Args:
        lr: learning rate of round zero, see `LocalSchedule`.
        momentum: in [0, 1); the velocity starts at zero in every round.
        weight_decay: at least 0, added to the gradient as weight_decay times the parameter.
        nesterov: Nesterov's form of momentum.

    Raises:
        UserError: a value out of its range, or `nesterov` without momentum.

    >>> params = {"weight": torch.ones(1)}
    >>> LocalSGD().step(params, {"weight": torch.ones(1)}, {}, step=0, lr=0.25)
    >>> params
    {'weight': tensor([0.7500])}
    """

    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Refuse what would not train."""
        _check_rate(self.lr, self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise UserError(f"LocalSGD: momentum lies in [0, 1), not {self.momentum}")
        if self.nesterov and not self.momentum:
            raise UserError("LocalSGD: nesterov needs a momentum above 0")

    @property
    def plain(self) -> bool:
        """Without momentum."""
        return not self.momentum

    def init(self, params: Tensors) -> State:
        """The velocity; empty without momentum."""
        return {"momentum": {n: torch.zeros_like(p) for n, p in params.items()}} if self.momentum else {}

    def step(self, params: Tensors, grads: Tensors, state: State, step: int, lr: float) -> None:
        """v <- momentum v + g; p <- p - lr v."""
        moved, by = [params[n] for n in grads], list(grads.values())
        if self.weight_decay:
            torch._foreach_add_(by, moved, alpha=self.weight_decay)
        if self.momentum:
            velocity = [state["momentum"][n] for n in grads]
            torch._foreach_mul_(velocity, self.momentum)
            torch._foreach_add_(velocity, by)
            by = [*torch._foreach_add(by, velocity, alpha=self.momentum)] if self.nesterov else velocity
        torch._foreach_add_(moved, by, alpha=-lr)


@dataclass(frozen=True)
class LocalAdam(LocalOptimizer):
    """Adam, as `torch.optim.Adam`.

    Args:
        lr: learning rate of round zero, see `LocalSchedule`.
        betas: decay of the first and of the second moment, each in [0, 1); both start at zero in every round.
        eps: positive, added to the root of the second moment.
        weight_decay: at least 0, added to the gradient as weight_decay times the parameter.

    Raises:
        UserError: a value out of its range.
    """

    lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would not train."""
        _check_rate(self.lr, self.weight_decay)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"LocalAdam: betas lie in [0, 1), not {tuple(self.betas)}")
        if not self.eps > 0:
            raise UserError(f"LocalAdam: eps is above 0, not {self.eps}")

    def init(self, params: Tensors) -> State:
        """First and second moment."""
        return {kind: {n: torch.zeros_like(p) for n, p in params.items()} for kind in ("mean", "square")}

    def step(self, params: Tensors, grads: Tensors, state: State, step: int, lr: float) -> None:
        """With bias correction."""
        moved, by = [params[n] for n in grads], list(grads.values())
        mean, square = ([state[kind][n] for n in grads] for kind in ("mean", "square"))
        first, second = self.betas
        if self.weight_decay:
            torch._foreach_add_(by, moved, alpha=self.weight_decay)
        torch._foreach_lerp_(mean, by, 1 - first)
        torch._foreach_mul_(square, second)
        torch._foreach_addcmul_(square, by, by, 1 - second)
        root = torch._foreach_sqrt(square)
        torch._foreach_div_(root, math.sqrt(1 - second ** (step + 1)))
        torch._foreach_add_(root, self.eps)
        torch._foreach_addcdiv_(moved, mean, root, -lr / (1 - first ** (step + 1)))


@dataclass(frozen=True)
class LocalSchedule:
    """The clients' learning rate over rounds, as a factor.

    Args:
        kind: `constant`; `exponential`: gamma per round; `cosine`: down to `floor`, which a round after the last would
            have; `milestones`: times gamma at each of them.
        gamma: see kind; in (0, 1].
        milestones: numbers of rounds.
        floor: where `cosine` ends, a share of the first rate.

    Raises:
        UserError: an unknown kind, or a value out of its range.
    """

    kind: Literal["constant", "exponential", "cosine", "milestones"] = "constant"
    gamma: float = 1.0
    milestones: list[int] = field(default_factory=list)
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an unknown kind and factors that do not shrink."""
        check_literals(type(self), vars(self))
        if not 0 < self.gamma <= 1:
            raise UserError(f"local_schedule: gamma lies in (0, 1], not {self.gamma}")
        if not 0 <= self.floor <= 1:
            raise UserError(f"local_schedule: floor lies in [0, 1], not {self.floor}")

    def factor(self, number: int, rounds: int) -> float:
        """Of round `number` of so many.

        >>> [round(LocalSchedule("cosine").factor(number, 4), 3) for number in range(4)]
        [1.0, 0.854, 0.5, 0.146]
        """
        if self.kind == "exponential":
            return self.gamma**number
        if self.kind == "milestones":
            return self.gamma ** sum(number >= milestone for milestone in self.milestones)
        if self.kind == "cosine":
            # as torch's CosineAnnealingLR: no round is spent at rate zero, where SCAFFOLD's c_i would be 0 / 0
            done = min(number / rounds, 1.0)
            return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
        return 1.0


def _check_rate(lr: float, weight_decay: float) -> None:
    if not lr > 0:
        raise UserError(f"the local learning rate is positive, not {lr}")
    if not weight_decay >= 0:
        raise UserError(f"the local weight decay is at least 0, not {weight_decay}")
