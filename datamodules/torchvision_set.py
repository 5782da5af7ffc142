"""Image sets that torchvision downloads, checks and reads."""

from pathlib import Path
from typing import Any, ClassVar

from torchvision.datasets import VisionDataset

from datamodules.data_root import opened
from datamodules.vision import VisionDataModule


class TorchvisionDataModule(VisionDataModule):
    """A set with a reader in torchvision: says which reader, with which arguments, and which files have a checksum."""

    source: ClassVar[type[VisionDataset]]

    def arguments(self, split: str) -> dict[str, Any]:
        """What the reader wants to be told about "train" or "test"."""
        return {"train": split == "train"}

    def checksums(self) -> list[tuple[Path, str]]:
        """Files as they were published and their MD5, to tell a broken file from a missing one."""
        return []

    def prepare_data(self) -> None:
        """Download and unpack what is missing, in one process; fails here if it cannot be read."""
        for split in ("train", "test"):
            self.open(split)

    def open(self, split: str) -> VisionDataset:
        """torchvision's data set.

        Raises:
            DataError: missing, broken, or not to be downloaded.
        """
        name = self.source.__name__
        return opened(self.source, name, self.root, self.download, self.checksums(), **self.arguments(split))
