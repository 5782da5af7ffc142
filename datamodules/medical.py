"""MedMNIST v2 (Yang et al. 2023): small medical images with official training, validation and test parts."""

from pathlib import Path
from typing import Any, Literal

from torchvision.datasets.utils import calculate_md5

from lit_fa.datamodules.data_root import ELSEWHERE, opened
from lit_fa.datamodules.errors import DataError, one_of, require
from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.npz import read_split
from lit_fa.datamodules.vision import VisionDataModule


class MedMNIST(VisionDataModule):
    """One of the 2-D sets with one label per image, in `<root>/medmnist/<flag>.npz`; normalised with 0.5 and 0.5.

    Args:
        flag: bloodmnist, pneumoniamnist, pathmnist, dermamnist, octmnist, ...
        size: height and width in pixels, as published: 28, 64, 128 or 224.
    """

    has_validation = True

    def __init__(self, flag: str = "bloodmnist", size: Literal[28, 64, 128, 224] = 28, **options: Any) -> None:
        require(size in (28, 64, 128, 224), f"size={size}: MedMNIST is published in 28, 64, 128 and 224")
        self.flag, self.size = one_of("flag", flag, flags()), size
        super().__init__(**options)

    def inspect(self) -> None:
        """Classes and channels from the medmnist package."""
        from medmnist import INFO

        info, suffix = INFO[self.flag], "" if self.size == 28 else f"_{self.size}"
        self.num_classes, self.image_shape = len(info["label"]), (info["n_channels"], self.size, self.size)
        self.mean = self.std = (0.5,) * info["n_channels"]  # as in the official training code
        self.licence = info["license"]
        self.folder, self.md5 = self.root / "medmnist", info[f"MD5{suffix}"]
        self.path = self.folder / f"{self.flag}{suffix}.npz"

    def prepare_data(self) -> None:
        """Download the file if it is missing and verify its checksum.

        Raises:
            DataError: a wrong checksum, or a missing file that may not be downloaded.
        """
        self.fetch()
        if calculate_md5(self.path) != self.md5:
            raise DataError(f"{self.path}: wrong checksum, truncated or not the original; delete it and run again")

    def fetch(self) -> None:
        """Download the file with medmnist if it is missing.

        Raises:
            DataError: it is missing, and `download` is False or fails.
        """
        import medmnist

        if self.path.is_file():
            return
        require(self.download, f"{self.path} does not exist: allow download, or {ELSEWHERE}")
        reader = getattr(medmnist, medmnist.INFO[self.flag]["python_class"])
        self._make_folder()  # medmnist does not create it
        files: list[tuple[Path, str]] = [(self.path, self.md5)]
        opened(reader, self.flag, self.folder, True, files, split="test", size=self.size)

    def read(self, split: str) -> InMemory:
        """Images (n, c, size, size) and labels."""
        self.fetch()
        return read_split(self.path, split)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.folder} cannot be created ({error.strerror}): choose another root") from error


def flags() -> list[str]:
    """The flags of the two-dimensional sets with one label per image."""
    from medmnist import INFO

    return [flag for flag, info in INFO.items() if "3d" not in flag and "multi-label" not in info["task"]]
