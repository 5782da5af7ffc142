"""Street View House Numbers."""

from pathlib import Path
from typing import Any

import torch
import torchvision.datasets as tv

from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.torchvision_set import TorchvisionDataModule


class SVHN(TorchvisionDataModule):
    """House numbers, 73,257 + 26,032 digits of 32x32 (Netzer et al. 2011); label 0 is the digit 0."""

    source = tv.SVHN
    licence = "for non-commercial use only"
    num_classes = 10
    image_shape = (3, 32, 32)
    mean, std = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)

    def arguments(self, split: str) -> dict[str, Any]:
        """The split by name."""
        return {"split": split}

    def checksums(self) -> list[tuple[Path, str]]:
        """One file for each split."""
        return [(self.root / name, md5) for _, name, md5 in self.source.split_list.values()]

    def read(self, split: str) -> InMemory:
        """Images (n, 3, h, w) and labels."""
        source = self.open(split)
        return InMemory(torch.from_numpy(source.data).contiguous(), torch.from_numpy(source.labels).long())
