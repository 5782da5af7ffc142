"""The criteria for stacked logits: each lane's loss and the error at its logits, rounded as autograd rounds them.

Letters: k lanes, n batch, c classes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_fa.functional import criteria
from lit_fa.functional.criteria import Criterion, one_hot, outputs_wanted

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (k,) and errors (k, n, c) of logits (k, n, c) and class indices (k, n).

    >>> logits, targets = torch.randn(1, 4, 3, requires_grad=True), torch.tensor([[0, 1, 2, 0]])
    >>> losses, error = cross_entropy(logits.detach(), targets)
    >>> torch.equal(error, torch.autograd.grad(F.cross_entropy(logits[0], targets[0]), logits)[0])
    True
    """
    log_probabilities = torch.ops.aten._log_softmax(logits, -1, False)
    losses = [F.nll_loss(*lane) for lane in zip(log_probabilities, targets, strict=True)]
    error = torch.zeros_like(logits).scatter_(-1, targets.unsqueeze(-1), -1 / targets.shape[1])
    error = torch.ops.aten._log_softmax_backward_data(error, log_probabilities, -1, logits.dtype)
    return torch.stack(losses), error


def mse(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As `cross_entropy`, for the squared error; targets: (k, n) class indices, or numbers (k, n) or (k, n, c)."""
    wanted = outputs_wanted(targets, logits)
    losses = [F.mse_loss(*lane) for lane in zip(logits, wanted, strict=True)]
    return torch.stack(losses), (logits - wanted).mul_(2 / logits[0].numel())


def bce(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As `cross_entropy`, for the sigmoid cross-entropy with the one-hot target."""
    hot = one_hot(targets, logits)
    losses = [F.binary_cross_entropy_with_logits(*lane) for lane in zip(logits, hot, strict=True)]
    return torch.stack(losses), logits.sigmoid().sub_(hot).div_(logits[0].numel())


LOSSES: dict[Criterion, Loss] = {
    criteria.cross_entropy: cross_entropy,
    criteria.mse: mse,
    criteria.bce: bce,
}
