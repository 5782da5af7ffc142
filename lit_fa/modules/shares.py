"""A batch on several ranks: the weight of each rank's samples, and which samples only pad the data set."""

from collections.abc import Sized
from typing import cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from lit_fa.errors import UserError
from lit_fa.rules.base import Does, LearningRule

NORMALISES = (nn.modules.batchnorm._BatchNorm,)


def mean_over_ranks(samples: int, trainer: L.Trainer, device: torch.device) -> Tensor | int:
    """The mean of a number of samples over the ranks: a scalar tensor on the device; on one rank the number itself.

    DDP averages over ranks, and their shares may differ by a sample. So each rank multiplies its mean gradient by its
    `samples` divided by this mean.
    """
    if trainer.world_size == 1:
        return samples
    total = torch.tensor(float(samples), dtype=torch.float64, device=device)
    return trainer.strategy.reduce(total, reduce_op="sum") / trainer.world_size


def weighted_mean(value: Tensor, samples: int, trainer: L.Trainer) -> Tensor:
    """The mean of a rank's scalar over the samples of all ranks; a collective call."""
    if trainer.world_size == 1:
        return value
    sums = torch.stack([value.detach().double() * samples, value.new_tensor(samples).double()])
    total, seen = trainer.strategy.reduce(sums, reduce_op="sum")
    return (total / seen).to(value.dtype)


def own_samples(loader: object, batch_idx: int, size: int) -> int:
    """How many samples of a batch count on this rank; the samples after them are repetitions.

    Torch's `DistributedSampler`, which Lightning gives to a plain loader, repeats the first samples until all ranks
    have equally many. A metric must not count these twice.
    """
    if hasattr(loader, "own"):
        return min(size, loader.own(batch_idx))
    sampler, batch_size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last or batch_size is None:
        return size
    before = sampler.rank + batch_idx * batch_size * sampler.num_replicas
    return min(size, max(0, -(-(len(cast(Sized, sampler.dataset)) - before) // sampler.num_replicas)))


def check_shares(trainer: L.Trainer, rule: LearningRule, network: nn.Module) -> None:
    """Refuse a sum over samples on several devices, and log what compares the samples of a batch.

    Raises:
        UserError: the rule sums where DDP averages.
    """
    if trainer.world_size == 1:
        return
    if Does.SUMS in rule.does:
        raise UserError("devices average over samples, which target_reduction: sum does not: set it to mean")
    norms = [m for m in network.modules() if isinstance(m, NORMALISES) and not isinstance(m, nn.SyncBatchNorm)]
    comparing = [*rule.compares_samples, *(["BatchNorm"] if norms else [])]
    if comparing:
        rank_zero_info(
            f"samples of a batch are compared with one another ({', '.join(dict.fromkeys(comparing))}): each of the "
            f"{trainer.world_size} devices compares its own share, so that the result is not that of one device"
        )
