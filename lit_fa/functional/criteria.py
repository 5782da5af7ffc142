"""The losses of the papers. All average over the batch, so a rule never divides by n again."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax cross-entropy, a scalar, the mean over the batch.

    Args:
        logits: (n, c).
        targets: (n,) class indices.
    """
    return F.cross_entropy(logits, targets)


def mse(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared error, a scalar, the mean over batch and outputs (torch's MSELoss), for one-hot or numeric targets.

    Args:
        logits: (n, c).
        targets: (n,) class indices, or floats (n,) for one output, (n, c) for several.
    """
    return F.mse_loss(logits, outputs_wanted(targets, logits))


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid cross-entropy with the one-hot target, a scalar, the mean over batch and classes (as the DRTP code).

    Args:
        logits: (n, c).
        targets: (n,) class indices.
    """
    return F.binary_cross_entropy_with_logits(logits, one_hot(targets, logits))


def cross_entropy_rows(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's own cross-entropy (...) and its derivative (..., c), which is not divided by the number of rows.

    Args:
        logits: (..., c).
        targets: (...) class indices.
    """
    log_probabilities, true_class = logits.log_softmax(-1), targets.unsqueeze(-1)
    losses = log_probabilities.gather(-1, true_class).squeeze(-1).neg_()
    minus_one = log_probabilities.new_full((), -1.0).expand(true_class.shape)
    return losses, log_probabilities.exp_().scatter_add_(-1, true_class, minus_one)


def mse_rows(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's own squared error against the one-hot target, and its derivative; as `cross_entropy_rows`.

    Args:
        logits: (..., c).
        targets: (...) class indices.
    """
    errors = logits - one_hot(targets, logits)
    return errors.square().mean(-1), errors.mul_(2 / logits.shape[-1])


def bce_rows(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's own sigmoid cross-entropy, and its derivative; as `cross_entropy_rows`.

    Args:
        logits: (..., c).
        targets: (...) class indices.
    """
    hot = one_hot(targets, logits)
    losses = F.binary_cross_entropy_with_logits(logits, hot, reduction="none").mean(-1)
    return losses, logits.sigmoid().sub_(hot).div_(logits.shape[-1])


def one_hot(targets: Tensor, like: Tensor) -> Tensor:
    """Class indices as one-hot rows (n, c).

    Args:
        targets: (n,) class indices.
        like: (n, c), or anything with c as its last dimension; it gives the dtype and the device.
    """
    classes = torch.arange(like.shape[-1], device=like.device)  # F.one_hot reads values, which vmap does not allow
    return (targets.unsqueeze(-1) == classes).to(like.dtype)


def outputs_wanted(targets: Tensor, like: Tensor) -> Tensor:
    """The targets of the outputs `like`, with its shape and dtype: class indices as one-hot rows, floats unchanged.

    Args:
        targets: (n,) class indices, or floats with as many entries as `like`.
        like: (n, c).

    >>> logits = torch.zeros(2, 1)
    >>> outputs_wanted(torch.tensor([0.5, 3.0]), logits).tolist()
    [[0.5], [3.0]]
    """
    return targets.to(like.dtype).view_as(like) if targets.is_floating_point() else one_hot(targets, like)


def error_of(criterion: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> Tensor:
    """The error: the gradient (n, c) of the criterion at the logits, without a graph.

    The criterion averages over the batch, so the error of each sample is already divided by n.

    Args:
        criterion: from (logits (n, c), targets) to a scalar.
        logits: (n, c).
        targets: (n,).

    >>> error_of(mse, torch.tensor([[1.0, 0.0]]), torch.tensor([1])).tolist()
    [[1.0, -1.0]]
    """
    return torch.func.grad(lambda outputs: criterion(outputs, targets))(logits.detach())


CriterionName = Literal["cross_entropy", "mse", "bce"]
Criterion = Callable[[Tensor, Tensor], Tensor]
CRITERIA: dict[CriterionName, Criterion] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "bce": bce,
}
# criterion to its rows' own losses and derivatives: the mean of the losses is the criterion
ROWS: dict[Criterion, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    cross_entropy: cross_entropy_rows,
    mse: mse_rows,
    bce: bce_rows,
}
