"""The base class of all data modules: train, validation, test and prediction loaders, ranks and device."""

import copy

import lightning as L
import torch

from lit_fa.datamodules.batches import BatchLoader, Prepare
from lit_fa.datamodules.errors import DataError, one_line, require
from lit_fa.datamodules.image_set import ImageSet
from lit_fa.datamodules.text_set import TextSet
from lit_fa.datamodules.unlabelled_images import loose_images
from lit_fa.datamodules.validation import announce, refuse_choices


class LoadingDataModule(L.LightningDataModule):
    """Loaders over `train_set`, `val_set` and `test_set`, which the subclass sets in `setup`.

    The subclass sets the other attributes from the options of the same names in its constructor.
    """

    batch_size: int
    eval_batch_size: int
    seed: int = 0
    drop_last: bool = False
    device: str = "auto"
    licence: str = "not stated"  # of the data set
    checksum: str = ""  # after `setup`, SHA-256 of the samples as they were read
    choose_by_test: str = "refuse"  # the option `validation_is_test`
    predict_split: str = "test"  # split of `predict_dataloader`: train, val or test
    predict_folder: str | None = None  # folder of images without labels, in place of a split
    train_set: ImageSet | TextSet | None = None
    val_set: ImageSet | TextSet | None = None
    test_set: ImageSet | TextSet | None = None
    image_shape: tuple[int, ...]
    _announced = False  # whether the line about validation on the test set has been logged

    def prepare(self, samples: ImageSet | TextSet) -> Prepare | None:
        """The last step on every batch of `samples`; None if the set is stored as network inputs."""
        return None

    @property
    def validation_is_test(self) -> bool:
        """Whether validation metrics are computed on the test set, because there are no other samples."""
        return self.val_set is not None and self.val_set is self.test_set

    def train_dataloader(self) -> BatchLoader:
        """Batches shuffled by (seed, epoch); not shuffled if the trainer has `overfit_batches`."""
        refuse_choices(self)  # again: the learning rate schedule is known only now
        overfit = self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0
        return self._loader(self.train_set, self.batch_size, shuffle=not overfit, drop_last=self.drop_last)

    def val_dataloader(self) -> BatchLoader:
        """Batches in a fixed order; every sample occurs once over all ranks."""
        if not self._announced:
            announce(self)
        self._announced = True
        return self._loader(self.val_set, self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """Batches in a fixed order; every sample occurs once over all ranks."""
        return self._loader(self.test_set, self.eval_batch_size)

    def predict_dataloader(self) -> BatchLoader:
        """Every sample of `predict_split` once, without augmentation."""
        samples = {"train": self.train_set, "val": self.val_set, "test": self.test_set}[self.predict_split]
        if self.predict_folder is not None:
            require(hasattr(self, "finish"), f"{type(self).__name__} reads no images: leave out --images")
            samples = loose_images(self.predict_folder, self.image_shape).to(self.target_device())
        # a copy, because `prepare` augments the batches of the object `self.train_set`
        return self._loader(copy.copy(samples), self.eval_batch_size)

    def target_device(self) -> torch.device:
        """Device of the sets: `device`; if that is `auto`, the trainer's device, or cpu without a trainer."""
        if self.device != "auto":
            return named_device(self.device)
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _loader(self, samples: ImageSet | TextSet | None, batch_size: int, **order: bool) -> BatchLoader:
        if samples is None:
            raise DataError(f"{type(self).__name__}: call setup() first (a Trainer does)")
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        rank %= world_size  # ranks that share no batch (stages of one network) have one share in all
        return BatchLoader(
            samples,
            batch_size,
            prepare=self.prepare(samples),
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            **order,
        )


def named_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        DataError: this machine has no such device.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"device={name!r}: {one_line(error, most=80)}; set auto or cpu") from None
    require(device.type != "meta", f"device={name!r} stores no data; set auto or cpu")
    return device
