"""Images of a folder without labels, read like those of a data set."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_fa.datamodules.errors import require
from lit_fa.datamodules.image_set import EXTENSIONS, OnDisk, read_pixels


@dataclass(frozen=True)
class LooseImages(OnDisk):
    """Image files, decoded to (channels, size, size) uint8, in the order of their names; all labels are 0."""

    channels: int = 3
    labelled = False

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (channels, size, size) uint8, and 0."""
        return read_pixels(self.paths[index], self.size, "L" if self.channels == 1 else "RGB"), self.labels[index]


def loose_images(folder: str | Path, shape: tuple[int, ...]) -> LooseImages:
    """The images of a folder and its subfolders.

    Args:
        folder: of image files.
        shape: (1 or 3, size, size) of the result: shorter side resized to `size`, then the centre cropped.

    Raises:
        DataError: no image, or an impossible shape.
    """
    channels, height, width = shape
    require(
        channels in (1, 3) and height == width,
        f"images cannot be resized to {tuple(shape)}: the network must take 1 or 3 channels and square images",
    )
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in EXTENSIONS)
    require(len(paths) > 0, f"--images {folder}: there is no image ({', '.join(sorted(EXTENSIONS))})")
    return LooseImages(tuple(paths), torch.zeros(len(paths), dtype=torch.int64), height, channels=channels)
