"""Grey 28x28 sets in MNIST's file format. Means and deviations are those of the training images."""

from pathlib import Path
from typing import Any, Literal

import torchvision.datasets as tv

from lit_fa.datamodules.errors import one_of
from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.torchvision_set import TorchvisionDataModule


class MNIST(TorchvisionDataModule):
    """Handwritten digits, 60,000 + 10,000 (LeCun et al. 1998)."""

    source = tv.MNIST
    licence = "CC BY-SA 3.0"
    num_classes = 10
    image_shape = (1, 28, 28)
    mean, std = (0.1307,), (0.3081,)

    def checksums(self) -> list[tuple[Path, str]]:
        """The four published archives."""
        folder = self.root / self.source.__name__ / "raw"
        return [(folder / name, md5) for name, md5 in self.source.resources]

    def read(self, split: str) -> InMemory:
        """Images (n, 1, 28, 28) and labels from 0."""
        source = self.open(split)
        return InMemory(source.data.unsqueeze(1), source.targets.long())


class FashionMNIST(MNIST):
    """Clothes, 60,000 + 10,000 (Xiao et al. 2017)."""

    source = tv.FashionMNIST
    licence = "MIT"
    mean, std = (0.2860,), (0.3530,)


class KMNIST(MNIST):
    """Cursive Japanese characters, 60,000 + 10,000 (Clanuwat et al. 2018)."""

    source = tv.KMNIST
    licence = "CC BY-SA 4.0"
    mean, std = (0.1918,), (0.3483,)


EMNIST_CLASSES = {"letters": 26, "balanced": 47, "digits": 10, "mnist": 10, "bymerge": 47, "byclass": 62}


class EMNIST(MNIST):
    """Letters and digits from NIST's Special Database 19 (Cohen et al. 2017), turned upright.

    Labels of `letters` are 1..26 in the files and 0..25 here.

    Args:
        split: letters (26 classes), balanced (47), digits (10), mnist (10), bymerge (47) or byclass (62).
    """

    source = tv.EMNIST
    licence = "not stated; derived from NIST Special Database 19"

    def __init__(
        self,
        split: Literal["letters", "balanced", "digits", "mnist", "bymerge", "byclass"] = "letters",
        **options: Any,
    ) -> None:
        self.split = one_of("split", split, EMNIST_CLASSES)
        self.num_classes = EMNIST_CLASSES[split]
        letters = split == "letters"
        self.mean, self.std = ((0.1722,), (0.3309,)) if letters else ((0.1751,), (0.3332,))
        super().__init__(**options)

    def arguments(self, split: str) -> dict[str, Any]:
        """EMNIST's own split, and train or test."""
        return {"split": self.split, "train": split == "train"}

    def checksums(self) -> list[tuple[Path, str]]:
        """One archive for all splits."""
        return [(self.root / "EMNIST" / "raw" / "gzip.zip", self.source.md5)]

    def read(self, split: str) -> InMemory:
        """Images (n, 1, 28, 28), upright (in the files they are transposed), and labels from 0."""
        raw = super().read(split)
        first = 1 if self.split == "letters" else 0
        return InMemory(raw.images.transpose(-1, -2).contiguous(), raw.labels - first)
