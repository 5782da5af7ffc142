r"""Adaptive server optimisers, which torch.optim does not have in this form.

Reddi et al. 2021, arXiv:2003.00295, algorithm 2, with $\Delta$ the clients' mean update (minus our gradient g):
$m \leftarrow \beta_1 m + (1 - \beta_1) g$; FedAdam: $v \leftarrow \beta_2 v + (1 - \beta_2) g^2$; FedYogi:
$v \leftarrow v - (1 - \beta_2)\, g^2\, \mathrm{sign}(v - g^2)$; $w \leftarrow w - \eta\, m / (\sqrt v + \tau)$. No bias
correction; v starts at $\tau^2$.

FedAvgM (Hsu et al. 2019, arXiv:1909.06335) is `torch.optim.SGD(lr=1, momentum=beta)`. FLFA's code has
$v \leftarrow \beta v + (1 - \beta) g$, which is `SGD(lr=1 - beta, momentum=beta)`. `dampening=beta` would differ in
the first round, in which torch sets v = g.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_fa.errors import UserError


class FedAdam(Optimizer):
    """Reddi et al. 2021, FedAdam.

    Args:
        params: of the server.
        lr: eta, above 0.
        betas: of m and v, each in [0, 1).
        tau: degree of adaptivity, above 0.

    Raises:
        UserError: a value out of its range.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> server = FedAdam([weight], lr=0.1)
    >>> weight.grad = torch.ones(1)  # the server's weight minus the average of the clients'
    >>> server.step()
    >>> round(weight.item(), 3)  # 1 - 0.1 * 0.1 / (sqrt(0.01) + 0.001)
    0.901
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 0.01, betas: tuple[float, float] = (0.9, 0.99), tau: float = 1e-3
    ):
        """The moments are allocated in the first step."""
        if not (lr > 0 and tau > 0 and all(0 <= beta < 1 for beta in betas)):
            raise UserError(f"{type(self).__name__}: lr={lr} and tau={tau} are above 0, betas={tuple(betas)} in [0, 1)")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "tau": tau})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # as torch's own optimisers
        """One round."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group)
        return loss

    def second_moment(self, v: Tensor, square: Tensor, beta: float) -> None:
        """Renew v in place. square: g^2."""
        v.lerp_(square, 1 - beta)

    def _step(self, p: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["m"], state["v"] = torch.zeros_like(p), torch.full_like(p, group["tau"] ** 2)
        first, second = group["betas"]
        state["m"].lerp_(p.grad, 1 - first)
        self.second_moment(state["v"], p.grad.square(), second)
        p.addcdiv_(state["m"], state["v"].sqrt().add_(group["tau"]), value=-group["lr"])


class FedYogi(FedAdam):
    """Reddi et al. 2021, FedYogi: v changes by at most (1 - beta_2) g^2 in a step."""

    def second_moment(self, v: Tensor, square: Tensor, beta: float) -> None:
        """Renew v in place. square: g^2."""
        v.addcmul_(square, torch.sign(v - square), value=beta - 1)
