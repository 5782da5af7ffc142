"""One .npz file in MedMNIST's convention: {train,val,test}_images uint8 (n, h, w[, 3]) and *_labels (n,) or (n, 1)."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets.utils import calculate_md5

from lit_fa.datamodules.data_root import ELSEWHERE
from lit_fa.datamodules.errors import DataError, one_line, require
from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.labels import check_every_class, whole_numbers
from lit_fa.datamodules.vision import VisionDataModule


class Npz(VisionDataModule):
    """Labelled images in one file; the number of classes is the largest label plus one.

    Labels must be whole numbers, and every class from 0 on must have a training image.

    Args:
        path: the file, absolute or inside `root`.
        label_offset: the smallest label of the file, which is subtracted from all labels (1 for EMNIST letters).
        num_classes: number of classes; if it is given, classes without a training image are allowed.
        md5: checksum of the file, if it should be verified.
        mean, std: per channel, in units of [0, 1]; default: computed from the training images.

    Raises:
        DataError: a missing or broken file, or images and labels that do not fulfil these conditions.
    """

    def __init__(
        self,
        path: str,
        label_offset: int = 0,
        md5: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        require(num_classes is None or num_classes >= 1, f"num_classes={num_classes}: must be at least 1")
        require((mean is None) == (std is None), "mean and std go together: give both, or neither to measure them")
        self.wanted_classes, self.chosen_classes = num_classes, options.get("classes")
        self.path, self.label_offset, self.md5 = Path(path).expanduser(), label_offset, md5
        self.mean, self.std = mean, std
        super().__init__(**options)

    def inspect(self) -> None:
        """Read shape, classes and splits from the headers and labels of the file.

        Raises:
            DataError: the file is missing, has a wrong checksum or other keys, or the options contradict it.
        """
        self.path = self.root / self.path  # an absolute path stays as it is
        require(self.path.is_file(), f"{self.path} does not exist: correct the path, or {ELSEWHERE}")
        if self.md5 is not None and calculate_md5(self.path) != self.md5:
            raise DataError(f"{self.path}: wrong checksum (MD5); get the file again, or correct --data.init_args.md5")
        shapes = array_shapes(self.path)
        require("train_images" in shapes, f"{self.path} has no key 'train_images'; it has {sorted(shapes)}")
        self.image_shape = channels_first(shapes["train_images"], self.path)
        self.has_validation = "val_images" in shapes
        splits = ("train", "val", "test") if self.has_validation else ("train", "test")
        labels = {split: read_labels(self.path, split, self.label_offset) for split in splits}
        for split in splits:
            self._check_split(split, shapes, len(labels[split]))
        lowest = int(min(part.min() for part in labels.values()))
        fits = self.label_offset >= 0 or lowest == 0
        smallest = lowest + self.label_offset
        require(
            fits, f"label_offset={self.label_offset}: {self.path} has labels from {smallest} on: set it to {smallest}"
        )
        highest = int(max(part.max() for part in labels.values()))
        self.num_classes = self.wanted_classes or highest + 1
        if self.wanted_classes is None and not isinstance(self.chosen_classes, Sequence):
            check_every_class(labels["train"], self.num_classes, str(self.path), self.label_offset)
        channels = self.image_shape[0]
        for name, given in (("mean", self.mean), ("std", self.std)):
            fits = given is None or len(given) == channels
            require(fits, f"{name}={given}: one number for each of {channels} channels is needed")
        require(self.std is None or min(self.std) > 0, f"std={self.std}: a standard deviation is above 0")

    def _check_split(self, split: str, shapes: dict[str, tuple[int, ...]], labels: int) -> None:
        key = f"{split}_images"
        require(key in shapes, f"{self.path} has no key {key!r}; it has {sorted(shapes)}")
        shape = shapes[key]
        require(shape[0] == labels, f"{self.path}: {shape[0]} {split} images but {labels} labels")
        same = channels_first(shape, self.path) == self.image_shape
        require(same, f"{self.path}: {key} are {shape[1:]} and train_images {shapes['train_images'][1:]}: scale them")

    def read(self, split: str) -> InMemory:
        """Images (n, c, h, w) and labels from 0."""
        return read_split(self.path, split, self.label_offset)


def read_split(path: Path, split: str, label_offset: int = 0) -> InMemory:
    """Images (n, c, h, w) and labels of "train", "val" or "test".

    Raises:
        DataError: missing key, wrong shape or dtype, or a broken file.
    """
    images, labels = read_array(path, f"{split}_images"), read_labels(path, split, label_offset)
    channels_first(images.shape, path)
    require(images.dtype == np.uint8, f"{path}: {split}_images is {images.dtype}; save it as uint8, 0 to 255")
    require(len(images) == len(labels), f"{path}: {len(images)} {split} images but {len(labels)} labels")
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return InMemory(torch.from_numpy(np.ascontiguousarray(images)), labels)


def read_labels(path: Path, split: str, label_offset: int) -> torch.Tensor:
    """Labels (n,) int64, from 0."""
    labels = read_array(path, f"{split}_labels")
    single = labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)
    require(single, f"{path}: {split}_labels has shape {labels.shape}; one label for each image is needed")
    require(labels.size > 0, f"{path}: {split}_labels is empty")
    from_zero = whole_numbers(labels.reshape(-1), f"{path}: {split}_labels") - label_offset
    require(
        int(from_zero.min()) >= 0,
        f"{path}: smallest {split} label is {labels.min()}: set label_offset to it, or correct it",
    )
    return from_zero


def read_array(path: Path, key: str) -> np.ndarray:
    """One array of the file.

    Raises:
        DataError: the array is missing or broken.
    """
    try:
        with np.load(path) as arrays:
            require(key in arrays.files, f"{path} has no key {key!r}; it has {sorted(arrays.files)}")
            return arrays[key]
    except DataError:
        raise
    except Exception as error:  # zip, zlib and numpy have different exceptions for a broken file
        raise DataError(f"{path}: cannot read {key} ({one_line(error)}): broken file, get it again") from error


def array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every array in the file, read from the headers only."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _header_shape(archive, name) for name in archive.namelist()}
    except Exception as error:  # as above
        raise DataError(f"{path}: not a readable npz file ({one_line(error)}): broken file, get it again") from error


def _header_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as stream:
        major, _ = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        return read(stream)[0]


def channels_first(shape: Sequence[int], path: Path) -> tuple[int, int, int]:
    """The image shape (c, h, w) of an array of shape (n, h, w) or (n, h, w, c).

    Raises:
        DataError: another shape.
    """
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    require(fits, f"{path}: images have shape {tuple(shape)}; (n, height, width) or (n, height, width, 3) is needed")
    return (shape[3] if len(shape) == 4 else 1, shape[1], shape[2])
