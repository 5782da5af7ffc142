"""All training samples at once, for measurements that are defined on the whole training set."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.probe import Batch, learner_of
from lit_fa.functional.criteria import mse


def whole_training_set(trainer: L.Trainer, module: Any) -> Batch:
    """Inputs (n, ...) and targets (n,), in the order of the first epoch, on the device.

    Raises:
        MeasurementError: the module is federated, or the images are augmented, so that every epoch has others.
    """
    data = getattr(trainer, "datamodule", None)
    if getattr(data, "augment", "none") != "none" or getattr(data, "transforms", None):
        raise MeasurementError("augmented images are others in every epoch: set augment: none and no transforms")
    if hasattr(module, "movements"):
        raise MeasurementError("the clients of a federated run have no training set in common: use Classifier")
    with isolate_rng(include_cuda=torch.cuda.is_available()), module.training_batches(whole=True) as epoch:
        inputs, targets = zip(*((x, y) for x, y, *_ in epoch(0)), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def check_squared_error(module: L.LightningModule, callback: str) -> None:
    """Refuse another criterion than `mse`.

    Raises:
        MeasurementError: another criterion.
    """
    if learner_of(module).criterion is not mse:
        raise MeasurementError(f"{callback} is defined for the squared error: set criterion: mse")
