"""The base class of every image set: shape and classes are known before files are read; batches are network inputs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from lit_fa.datamodules import labels as lab
from lit_fa.datamodules import pixels, shared_sets
from lit_fa.datamodules.atomic_write import whole
from lit_fa.datamodules.batches import Prepare
from lit_fa.datamodules.checksum import sha256_of
from lit_fa.datamodules.data_root import data_root
from lit_fa.datamodules.errors import DataError, one_of, require
from lit_fa.datamodules.generators import Draws
from lit_fa.datamodules.image_set import ImageSet, InMemory, OnDisk
from lit_fa.datamodules.loading import LoadingDataModule
from lit_fa.datamodules.text_set import TextSet
from lit_fa.datamodules.validation import CHOICES, refuse_choices

LARGEST = dict.fromkeys(("batch_size", "eval_batch_size", "limit_train", "limit_test"), 10**9) | {"resize": 10_000}
SHIFTS = {"crop_flip": 4, "jitter": 2}  # pixels in each direction
READY_LIMIT = 1 << 30  # bytes; a set up to this size is normalised once, so that a batch is one index_select


class VisionDataModule(LoadingDataModule):
    """Labelled images for classification, kept on the training device if they fit.

    A subclass sets `num_classes`, `image_shape`, `mean` and `std` (as class attributes, or in `inspect`) and implements
    `read`. Every random choice has its own seed and generator; the global random state is neither read nor changed.

    Args:
        root: folder of all data sets; default: the environment variable LIT_FA_DATA, else ./data.
        batch_size: training images per step, over all devices together.
        eval_batch_size: the same for validation and test.
        classes: classes to keep, in the order of their new labels; a number k draws k classes by `class_seed`.
        class_seed: determines which k classes.
        label_noise: share of training labels replaced by a uniformly drawn class (once, for the whole run).
        noise_seed: determines which labels are replaced and by which class; nothing else does.
        noise_excludes_true_class: draw from the other classes only.
        val_size: number (int) or share (float) of training images held out for validation. 0: the data set's own
            validation images; if there are none, the test set, and `validation_is_test` is True.
        val_seed: determines which images are held out and which are used under a limit.
        validation_is_test: if validation is on the test set, `refuse` or `allow` a run in which early stopping, a
            checkpoint, the learning rate or a sweep follows a validation metric.
        seed: order of training batches and all augmentation.
        normalize: standard: (pixel/255 - mean) / std per channel; unit: pixel/255; none: 0..255.
        flatten: batches (n, c*h*w) instead of (n, c, h, w).
        resize: height and width, in pixels, to which every image is resized.
        augment: augmentation of training images, drawn for each image: crop_flip (4 pixels of zero padding, then
            flip), flip, or jitter (a shift of up to 2 pixels in each direction).
        transforms: torchvision v2 transforms applied to each training batch (uint8), after `augment`; like in
            torchvision, some draw once per batch.
        limit_train: largest number of training images, with classes as even as possible.
        limit_test: the same for the test set (and the data set's own validation images).
        drop_last: omit a last training batch that is not full.
        device: device of the images; auto: the trainer's device, cpu without a trainer.
        download: download missing files; False never uses the network.
        dtype: of the images in a batch.

    Attributes:
        train_set, val_set, test_set: after `setup`, the images on the device.
        flipped: after `setup`, indices into the original training set of the images that are trained with a wrong
            label (an image whose drawn class is the true one is not among them).
        train_indices: after `setup`, indices into the original training set of all training images.

    Raises:
        DataError: an option that contradicts the data set; one line that names the remedy.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    mean: Sequence[float] | None = None  # None: computed from the training images in `setup`
    std: Sequence[float] | None = None
    shares: bool = False  # with other modules of the process, see `shared_sets`
    has_validation: bool = False  # whether the data set has its own validation images
    in_memory_limit: int = 2 << 30  # bytes of decoded uint8 images; larger folders are decoded batch by batch

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 1000,
        classes: list[int] | int | None = None,
        class_seed: int = 0,
        label_noise: float = 0.0,
        noise_seed: int = 0,
        noise_excludes_true_class: bool = False,
        val_size: int | float = 0,
        val_seed: int = 0,
        seed: int = 0,
        normalize: Literal["standard", "unit", "none"] = "standard",
        flatten: bool = False,
        resize: int | None = None,
        augment: Literal["none", "crop_flip", "flip", "jitter"] = "none",
        transforms: list[nn.Module] | None = None,
        limit_train: int | None = None,
        limit_test: int | None = None,
        drop_last: bool = False,
        device: str = "auto",
        download: bool = True,
        dtype: Literal["float32", "float64"] = "float32",
        validation_is_test: Literal["refuse", "allow"] = "refuse",
    ) -> None:
        super().__init__()
        self.root, self.download, self.device = data_root(root), download, device
        self.batch_size, self.eval_batch_size, self.drop_last = batch_size, eval_batch_size, drop_last
        self.label_noise, self.noise_seed = label_noise, noise_seed
        self.noise_excludes_true_class = noise_excludes_true_class
        self.val_size, self.val_seed, self.seed = val_size, val_seed, seed
        self.limit_train, self.limit_test = limit_train, limit_test
        self.normalize = one_of("normalize", normalize, ["standard", "unit", "none"])
        self.augment = one_of("augment", augment, ["none", "crop_flip", "flip", "jitter"])
        self.choose_by_test = one_of("validation_is_test", validation_is_test, CHOICES)
        self.dtype = getattr(torch, one_of("dtype", dtype, ["float32", "float64"]))
        self.flatten, self.resize, self.transforms = flatten, resize, list(transforms or [])
        self._check_options()
        self.inspect()
        self.classes = lab.choose_classes(classes, self.num_classes, class_seed)
        self.num_original_classes = self.num_classes
        self.num_classes = len(self.classes) if self.classes is not None else self.num_classes
        if resize is not None:
            self.image_shape = (self.image_shape[0], resize, resize)
        self.train_set = self.val_set = self.test_set = None
        self._placed_on: torch.device | None = None

    def inspect(self) -> None:
        """Set the number of classes and the image shape if they depend on the options; reads headers, no images."""

    def read(self, split: str) -> ImageSet:
        """The original images and labels of "train", "test" or, if `has_validation`, "val"."""
        raise NotImplementedError(f"{type(self).__name__} does not implement read({split!r})")

    @property
    def validation_is_test(self) -> bool:
        """Whether validation metrics are computed on the test set, because there are no other images."""
        return not self.val_size and not self.has_validation

    def example(self, n: int = 2) -> Tensor:
        """Zeros with the shape and dtype of a batch of n images."""
        zeros = torch.zeros(n, *self.image_shape, dtype=self.dtype)
        return zeros.flatten(1) if self.flatten else zeros

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample of a batch, flattened or not."""
        return tuple(self.example(1).shape[1:])

    def setup(self, stage: str | None = None) -> None:
        """Read, select, hold out, replace labels, and put everything on the device; a second call does nothing."""
        refuse_choices(self)
        device = self.target_device()
        if self._placed_on == device:
            return
        if shared_sets.take(self, device):
            self._placed_on = device
            return
        train, test = self.read("train"), self.read("test")
        self.checksum = sha256_of(train, test)
        self._measure(train, device)
        held_out = self._setup_train(train, device)
        self.test_set = self._limited(self._of_classes(test, "test")[0], device)
        if held_out is not None:
            self.val_set = self._placed(held_out, device)
        elif self.has_validation:
            self.val_set = self._limited(self._of_classes(self.read("val"), "val")[0], device)
        else:
            self.val_set = self.test_set
        self._placed_on = device
        shared_sets.offer(self, device)

    def prepare(self, samples: ImageSet | TextSet) -> Prepare | None:
        """`augmented` for training images, `finish` for others; None if `setup` has finished the set already."""
        if isinstance(samples, InMemory) and samples.images.is_floating_point():
            return None
        return self.augmented if samples is self.train_set else lambda batch, _: self.finish(batch)

    def finish(self, images: Tensor) -> Tensor:
        """Network inputs of pixels (n, c, h, w) uint8: resized, normalised, cast to `dtype`, flattened if asked for."""
        images = self._sized(images).to(self.dtype).mul_(self._scale).add_(self._shift)
        return images.flatten(1) if self.flatten else images

    def augmented(self, images: Tensor, draws: Draws) -> Tensor:
        """A training batch (n, c, h, w) uint8, augmented and finished."""
        images = self._sized(images)
        if self.augment in SHIFTS:
            images = pixels.crop(images, draws, padding=SHIFTS[self.augment])
        if self.augment in ("crop_flip", "flip"):
            images = pixels.flip(images, draws)
        if self.transforms:
            images = pixels.apply_seeded(self.transforms, images, draws.number("transforms"))
        return self.finish(images)

    def _check_options(self) -> None:
        for name in ("batch_size", "eval_batch_size", "limit_train", "limit_test", "resize"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}={value}: must be at least 1")
            require(value is None or value <= LARGEST[name], f"{name}={value}: must be at most {LARGEST.get(name)}")
        require(0 <= self.label_noise <= 1, f"label_noise={self.label_noise}: a share of labels, from 0 to 1")
        require(
            0 <= self.val_size < float("inf"),
            f"val_size={self.val_size}: a number of images or a share of them, from 0",
        )

    def _measure(self, train: ImageSet, device: torch.device) -> None:
        if self.mean is None or self.std is None:
            assert isinstance(train, InMemory)  # a folder of files has its own statistics
            self.mean, self.std = pixels.statistics(train.images)
        scale, shift = pixels.scale_and_shift(self.normalize, self.mean, self.std)
        self._scale, self._shift = scale.to(device, self.dtype), shift.to(device, self.dtype)

    def _of_classes(self, images: ImageSet, split: str) -> tuple[ImageSet, Tensor]:
        lab.check_range(images.labels, self.num_original_classes, f"{type(self).__name__} ({split})")
        chosen, relabelled = lab.only_classes(images.labels, self.classes)
        present = set(relabelled.unique().tolist())
        absent = [label for new_label, label in enumerate(self.classes or []) if new_label not in present]
        if absent and (split == "train" or not present):
            raise DataError(f"{type(self).__name__} ({split}) has no image of the classes {absent}: leave them out")
        return images.select(chosen, relabelled), chosen

    def _setup_train(self, train: ImageSet, device: torch.device) -> ImageSet | None:
        train, original = self._of_classes(train, "train")
        used, held_out = lab.hold_out(len(train), self.val_size, self.val_seed)
        if self.limit_train is not None:
            used = used[lab.balanced_order(train.labels[used], self.val_seed)[: self.limit_train]]
        noisy = lab.replace_labels(
            train.labels,
            self.label_noise,
            self.num_classes,
            self.noise_seed,
            exclude_true_class=self.noise_excludes_true_class,
        )
        wrong = used[(noisy != train.labels)[used]]
        self.train_indices, self.flipped = original[used], original[wrong]
        self._save_label_noise(train.labels[wrong], noisy[wrong])
        self.train_set = self._placed(train.select(used, noisy[used]), device, plain=not self._augments)
        return train.select(held_out, train.labels[held_out]) if len(held_out) else None

    def _limited(self, images: ImageSet, device: torch.device) -> ImageSet:
        if self.limit_test is not None:
            chosen = lab.balanced_order(images.labels, self.val_seed)[: self.limit_test]
            images = images.select(chosen, images.labels[chosen])
        return self._placed(images, device)

    def _placed(self, images: ImageSet, device: torch.device, *, plain: bool = True) -> ImageSet:
        if isinstance(images, OnDisk) and images.decoded_bytes <= self.in_memory_limit:
            images = images.load()
        if isinstance(images, OnDisk):
            return images.to(device)
        images = images.map(self._sized).to(device)
        ready_bytes = len(images) * self.example(1)[0].nbytes
        return images.map(self.finish) if plain and ready_bytes <= READY_LIMIT else images

    def _sized(self, images: Tensor) -> Tensor:
        return pixels.resized(images, self.image_shape[-1]) if self.resize else images

    @property
    def _augments(self) -> bool:
        return self.augment != "none" or bool(self.transforms)

    def _save_label_noise(self, before: Tensor, after: Tensor) -> None:
        if not self.label_noise or self.trainer is None or not self.trainer.loggers:
            return  # without a logger the run has no folder; the noise can be recomputed from the seed
        folder = self.trainer.log_dir  # a collective operation: all ranks must read it
        if folder is None or not self.trainer.is_global_zero:
            return
        record = {"noise_seed": self.noise_seed, "label_noise": self.label_noise, "images": self.flipped.tolist()}
        record |= {"labels_before": before.tolist(), "labels_after": after.tolist()}
        with whole(Path(folder) / "label_noise.json") as temporary:
            temporary.write_text(json.dumps(record), encoding="utf-8")
