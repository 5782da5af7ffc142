"""Image sets, either entirely in memory or as files that are decoded batch by batch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as vision

from lit_fa.datamodules.errors import DataError, one_line

Batch = tuple[Tensor, Tensor]
EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp"}  # of image files


@dataclass(frozen=True)
class InMemory:
    """Images (n, c, h, w) uint8 and labels (n,) int64, on one device.

    A set without augmentation is stored as network inputs instead: floats, normalised, possibly flattened.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor, labels: Tensor) -> Self:
        """The images at `indices`, with new labels."""
        whole = len(indices) == len(self) and bool((indices == torch.arange(len(self))).all())
        return replace(self, images=self.images if whole else self.images[indices], labels=labels)

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same set with changed images."""
        return replace(self, images=change(self.images))

    def to(self, device: torch.device) -> Self:
        """The same set on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Batch]:
        """One (images, labels) for each index vector."""
        for index in indices:
            local = index.to(self.labels.device)
            yield self.images.index_select(0, local), self.labels.index_select(0, local)


@dataclass(frozen=True)
class OnDisk(Dataset[tuple[Tensor, Tensor]]):
    """Image files, decoded to (3, size, size) uint8: shorter side resized to `size`, then the centre cropped."""

    paths: tuple[Path, ...]
    labels: Tensor
    size: int
    num_workers: int = 0
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, size, size) uint8 and its label."""
        return decoded(self.paths[index], self.size), self.labels[index]

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the whole set as uint8."""
        return len(self) * 3 * self.size**2

    def select(self, indices: Tensor, labels: Tensor) -> Self:
        """The files at `indices`, with new labels."""
        return replace(self, paths=tuple(self.paths[index] for index in indices.tolist()), labels=labels)

    def to(self, device: torch.device) -> Self:
        """The same set with batches delivered on `device`."""
        return replace(self, device=device)

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Batch]:
        """One (images, labels) for each index vector, decoded by `num_workers` processes ahead of time."""
        loader = DataLoader(
            self,
            batch_sampler=[index.tolist() for index in indices],
            num_workers=self.num_workers,
            generator=torch.Generator(),  # without it the loader would advance the global random state
        )
        for images, labels in loader:
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def load(self) -> InMemory:
        """Decode everything once."""
        images = torch.empty(len(self), 3, self.size, self.size, dtype=torch.uint8)
        parts = torch.arange(len(self)).split(256)
        for part, (pixels, _) in zip(parts, replace(self, device="cpu").batches(parts), strict=True):
            images[part] = pixels
        return InMemory(images, self.labels)


def decoded(path: Path, size: int) -> Tensor:
    """Image (3, size, size) uint8 from a file."""
    return read_pixels(path, size, "RGB")


def read_pixels(path: Path, size: int, mode: str) -> Tensor:
    """Image (channels, size, size) uint8 from a file: shorter side resized to `size`, then the centre cropped.

    Args:
        path: the file.
        size: height and width of the result, in pixels.
        mode: `RGB` (three channels) or `L` (one).

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            pixels = vision.pil_to_tensor(image.convert(mode))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable image ({one_line(error)}); replace or delete the file") from error
    return vision.center_crop(vision.resize(pixels, [size], antialias=True), [size])


ImageSet = InMemory | OnDisk
