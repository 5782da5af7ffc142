"""Lightning's weight averaging with a learning rule: which combinations are refused before the run."""

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging

from lit_fa import lightning_privates as privates
from lit_fa.errors import UserError
from lit_fa.rules.base import Does
from lit_fa.rules.learner import Learner


def check_averages(trainer: L.Trainer, learner: Learner) -> None:
    """Refuse an average over tensors whose shapes the rule changes during training, or over boolean tensors.

    Raises:
        UserError: names the callback and the remedy.
    """
    for callback in privates.callbacks_of(trainer):
        if not isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
            continue
        name, rule = type(callback).__name__, learner.rule
        if Does.RESHAPES in rule.does and trainer.world_size == 1:
            raise UserError(f"{name} keeps a copy of the weights, whose shapes pruning changes: set physical: false")
        if Does.COMPARES in rule.does and isinstance(callback, WeightAveraging):
            raise UserError(f"{name} keeps a copy of the feedback, which chosen layers take and give back: name layers")
        if _takes_differences(callback) and any(b.dtype == torch.bool for b in learner.buffers()):
            raise UserError(f"{name} cannot average masks: set use_buffers: false")


def check_no_renewal(trainer: L.Trainer) -> None:
    """Refuse averaging that needs a pass over training data, which the server of a federation does not have."""
    for callback in privates.callbacks_of(trainer):
        if isinstance(callback, StochasticWeightAveraging) and privates.renews_batch_norm(callback):
            raise UserError(
                "StochasticWeightAveraging renews BatchNorm's statistics on training data, which a server does not "
                "have: take lightning.pytorch.callbacks.EMAWeightAveraging, which averages them"
            )


def renews_statistics(trainer: L.Trainer) -> bool:
    """Whether this is the extra pass of `StochasticWeightAveraging` for BatchNorm statistics, which takes no steps."""
    averaging = any(isinstance(callback, StochasticWeightAveraging) for callback in privates.callbacks_of(trainer))
    return averaging and privates.skips_backward(trainer)


def _takes_differences(callback: L.Callback) -> bool:
    """Whether buffers are averaged by torch's default, which subtracts them; it fails on boolean buffers."""
    if not isinstance(callback, WeightAveraging):
        return False
    use_buffers, options = privates.average_options(callback)
    return use_buffers and not {"avg_fn", "multi_avg_fn"} & options
