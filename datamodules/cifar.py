"""Colour 32x32 sets of Krizhevsky (2009)."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.datasets as tv
from PIL import Image

from lit_fa.datamodules.errors import require
from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.npz import read_split
from lit_fa.datamodules.torchvision_set import TorchvisionDataModule

JPEG_FILE, JPEG_QUALITY = Path("npz") / "cifar10_jpeg.npz", 75


class CIFAR10(TorchvisionDataModule):
    """Ten classes of objects and animals, 50,000 + 10,000.

    Args:
        jpeg: quality at which the images were once compressed as JPEG; None: the published images. Copies of CIFAR-10
            that are distributed as JPEG files have 75. If the data root has such a copy (`npz/cifar10_jpeg.npz`,
            decoded, in MedMNIST's convention), it is read; otherwise the published images are compressed, which gives
            nearly the same pixels.
        options: see `VisionDataModule`.
    """

    source = tv.CIFAR10
    num_classes = 10
    image_shape = (3, 32, 32)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

    def __init__(self, jpeg: int | None = None, **options: Any) -> None:
        require(jpeg is None or 1 <= jpeg <= 95, f"jpeg={jpeg}: a quality is 1 to 95")
        self.jpeg = jpeg
        super().__init__(**options)

    def prepare_data(self) -> None:
        """Download and unpack missing files, unless a JPEG copy is used."""
        if not self._has_copy():
            super().prepare_data()

    def checksums(self) -> list[tuple[Path, str]]:
        """The unpacked batches, then the archive."""
        source = self.source
        batches = [(self.root / source.base_folder / name, md5) for name, md5 in source.train_list + source.test_list]
        return [*batches, (self.root / source.filename, source.tgz_md5)]

    def read(self, split: str) -> InMemory:
        """Images (n, 3, 32, 32) and labels."""
        if self._has_copy():
            return read_split(self.root / JPEG_FILE, split)
        source = self.open(split)
        images = source.data if self.jpeg is None else compressed(source.data, self.jpeg)
        return InMemory(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets))

    def _has_copy(self) -> bool:
        is_ten = self.num_classes == 10
        return is_ten and self.jpeg == JPEG_QUALITY and (self.root / JPEG_FILE).is_file()


def compressed(images: np.ndarray, quality: int) -> np.ndarray:
    """Images (n, h, w, 3) uint8 after JPEG compression with 4:2:0 chroma subsampling."""
    decoded = np.empty_like(images)
    for image, out in zip(images, decoded, strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        out[:] = np.asarray(Image.open(file))
    return decoded


class CIFAR100(CIFAR10):
    """A hundred fine classes, 50,000 + 10,000."""

    source = tv.CIFAR100
    num_classes = 100
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
