"""Image sets that torchvision downloads, checks and reads."""

from pathlib import Path
from typing import Any, ClassVar

from torchvision.datasets import VisionDataset

from lit_fa.datamodules import shared_sets
from lit_fa.datamodules.data_root import opened
from lit_fa.datamodules.vision import VisionDataModule


class TorchvisionDataModule(VisionDataModule):
    """A data set that torchvision reads; subclasses set the reader, its arguments and the checksums of its files."""

    source: ClassVar[type[VisionDataset]]

    def arguments(self, split: str) -> dict[str, Any]:
        """Arguments of the reader for the split "train" or "test"."""
        return {"train": split == "train"}

    def checksums(self) -> list[tuple[Path, str]]:
        """The published files and their MD5, to distinguish a broken file from a missing one."""
        return []

    def prepare_data(self) -> None:
        """Download and unpack missing files, in one process at a time; nothing if they have been read.

        Raises:
            DataError: as `open`.
        """
        if self._placed_on is None and not shared_sets.known(self, self.target_device()):
            for split in ("train", "test"):
                self.open(split)

    def open(self, split: str) -> VisionDataset:
        """torchvision's data set.

        Raises:
            DataError: the files are missing or broken, or cannot be downloaded.
        """
        name = self.source.__name__
        return opened(self.source, name, self.root, self.download, self.checksums(), **self.arguments(split))
