"""Colour 32x32 sets of Krizhevsky (2009)."""

from pathlib import Path

import torch
import torchvision.datasets as tv

from datamodules.image_set import InMemory
from datamodules.torchvision_set import TorchvisionDataModule


class CIFAR10(TorchvisionDataModule):
    """Ten classes of objects and animals, 50,000 + 10,000."""

    source = tv.CIFAR10
    num_classes = 10
    image_shape = (3, 32, 32)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

    def checksums(self) -> list[tuple[Path, str]]:
        """The unpacked batches, then the archive."""
        source = self.source
        batches = [(self.root / source.base_folder / name, md5) for name, md5 in source.train_list + source.test_list]
        return [*batches, (self.root / source.filename, source.tgz_md5)]

    def read(self, split: str) -> InMemory:
        """Images (n, 3, 32, 32) and labels."""
        source = self.open(split)
        return InMemory(torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(source.targets))


class CIFAR100(CIFAR10):
    """A hundred fine classes, 50,000 + 10,000."""

    source = tv.CIFAR100
    num_classes = 100
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
