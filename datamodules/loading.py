"""What all data modules share once their sets are in memory: three loaders, the ranks, the device."""

import copy

import lightning as L
import torch

from datamodules.batches import BatchLoader, Prepare
from datamodules.errors import DataError, one_line, require
from datamodules.image_set import ImageSet
from datamodules.text_set import TextSet
from datamodules.unlabelled_images import loose_images
from datamodules.validation import announce, refuse_choices


class LoadingDataModule(L.LightningDataModule):
    """Loaders over `train_set`, `val_set` and `test_set`, which `setup` of a subclass fills.

    A subclass sets the options of the same names in its constructor; see there.
    """

    batch_size: int
    eval_batch_size: int
    seed: int = 0
    drop_last: bool = False
    device: str = "auto"
    choose_by_test: str = "refuse"  # the option `validation_is_test`
    predict_split: str = "test"  # what `predict_dataloader` delivers: train, val or test
    predict_folder: str | None = None  # images without labels instead
    train_set: ImageSet | TextSet | None = None
    val_set: ImageSet | TextSet | None = None
    test_set: ImageSet | TextSet | None = None
    _announced = False  # that validation is on the test set

    def prepare(self, samples: ImageSet | TextSet) -> Prepare | None:
        """The last step on every batch of `samples`; None where the set is ready for the network."""
        return None

    @property
    def validation_is_test(self) -> bool:
        """Whether validation metrics are computed on the test set, for lack of anything else."""
        return self.val_set is not None and self.val_set is self.test_set

    def train_dataloader(self) -> BatchLoader:
        """Shuffled by (seed, epoch); always the same order where the trainer overfits a few batches."""
        refuse_choices(self)  # once more: now the learning rate's schedule is known
        overfit = self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0
        return self._loader(self.train_set, self.batch_size, shuffle=not overfit, drop_last=self.drop_last)

    def val_dataloader(self) -> BatchLoader:
        """Fixed order, every sample once over all ranks."""
        if not self._announced:
            announce(self)
        self._announced = True
        return self._loader(self.val_set, self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """Fixed order, every sample once over all ranks."""
        return self._loader(self.test_set, self.eval_batch_size)

    def predict_dataloader(self) -> BatchLoader:
        """The samples of `predict_split` in evaluation form (training images without augmentation), each once."""
        samples = {"train": self.train_set, "val": self.val_set, "test": self.test_set}[self.predict_split]
        if self.predict_folder is not None:
            require(hasattr(self, "finish"), f"{type(self).__name__} reads no images: leave out --images")
            samples = loose_images(self.predict_folder, self.image_shape).to(self.target_device())
        # a copy is not the training set itself, whose batches `prepare` would augment
        return self._loader(copy.copy(samples), self.eval_batch_size)

    def target_device(self) -> torch.device:
        """Where the sets are kept: `device`, or the trainer's where that is `auto`; cpu without a trainer."""
        if self.device != "auto":
            return named_device(self.device)
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _loader(self, samples: ImageSet | TextSet | None, batch_size: int, **order: bool) -> BatchLoader:
        require(samples is not None, f"{type(self).__name__}: call setup() first (a Trainer does)")
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        ranks = {"rank": rank, "world_size": world_size}
        return BatchLoader(samples, batch_size, prepare=self.prepare(samples), seed=self.seed, **ranks, **order)


def named_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        DataError: there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"device={name!r}: {one_line(error, most=80)}; set auto or cpu") from None
    require(device.type != "meta", f"device={name!r} holds no data; set auto or cpu")
    return device
