"""Image files in one folder for each class: ImageNet, its subsets, Tiny-ImageNet, Imagenette."""

from pathlib import Path
from typing import Any

import torch
import torchvision.datasets as tv

from lit_fa.datamodules.data_root import ELSEWHERE, opened
from lit_fa.datamodules.errors import DataError, require
from lit_fa.datamodules.image_set import EXTENSIONS, OnDisk
from lit_fa.datamodules.vision import VisionDataModule

ANNOTATIONS = "val_annotations.txt"  # Tiny-ImageNet: file name, class, box


class ImageFolder(VisionDataModule):
    """`<path>/train/<class>/**` and `<path>/val` or `<path>/test` with the same classes, sorted by name.

    If there are both, `val` is the validation set; if there is only one of them, it is the test set. A file
    `val_annotations.txt` (Tiny-ImageNet) replaces class folders. The shorter side of every image is resized to `size`,
    then the centre is cropped. Images are normalised with ImageNet's statistics. A split of up to `in_memory_limit` is
    decoded once, a larger one batch by batch.

    Args:
        path: the folder, absolute or inside `root`.
        size: height and width in pixels.
        num_workers: processes that decode images.
        in_memory_limit: largest split that is kept in memory, in bytes of decoded images.
    """

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(
        self, path: str, size: int = 224, num_workers: int = 0, in_memory_limit: int = 2 << 30, **options: Any
    ) -> None:
        require(size >= 1 and num_workers >= 0, f"size={size}, num_workers={num_workers}: must not be negative")
        require(in_memory_limit >= 0, f"in_memory_limit={in_memory_limit}: a number of bytes, at least 0")
        self.path, self.size = Path(path).expanduser(), size
        self.num_workers, self.in_memory_limit = num_workers, in_memory_limit
        super().__init__(**options)

    def inspect(self) -> None:
        """Read the classes from the names of the training folders.

        Raises:
            DataError: a folder is missing, or has no folders of classes.
        """
        self.path = self.root / self.path  # an absolute path stays as it is
        train = self.path / "train"
        require(train.is_dir(), f"{train} is not a folder: correct the path, or {ELSEWHERE}")
        self.class_names = subfolders(train)
        require(len(self.class_names) > 0, f"{train} has no class folders: one folder for each class is needed")
        self.num_classes, self.image_shape = len(self.class_names), (3, self.size, self.size)
        labelled = [split for split in ("val", "test") if is_labelled(self.path / split, self.class_names)]
        require(len(labelled) > 0, f"{self.path} has neither val nor test with the class folders of train: add one")
        self.has_validation = len(labelled) == 2
        self.folders = {"train": "train", "val": "val", "test": labelled[-1]}

    def read(self, split: str) -> OnDisk:
        """The files of a split and their labels."""
        paths, labels = labelled_files(self.path / self.folders[split], self.class_names)
        if split == "train":
            _of_every_class(labels, self.class_names, self.path / "train")
        return OnDisk(tuple(paths), torch.tensor(labels, dtype=torch.int64), self.size, self.num_workers)


class Imagenette(ImageFolder):
    """Ten easy classes of ImageNet, 9,469 + 3,925 (fast.ai, version 2), from the smallest archive with enough pixels.

    Args:
        size: height and width in pixels.
        num_workers: processes that decode images.
        in_memory_limit: largest split that is kept in memory, in bytes of decoded images.
        options: see `VisionDataModule`; the `path` is given by the size.
    """

    licence = "Apache 2.0 for the choice; images of ImageNet"
    num_classes = 10

    def __init__(self, size: int = 160, num_workers: int = 0, in_memory_limit: int = 2 << 30, **options: Any) -> None:
        self.archive = next((f"{side}px" for side in (160, 320) if size <= side), "full")
        folder = "imagenette2" + ("" if self.archive == "full" else f"-{self.archive.removesuffix('px')}")
        super().__init__(folder, size, num_workers, in_memory_limit, **options)

    def inspect(self) -> None:
        """Set shape and folders, which are known without the files."""
        self.path = self.root / self.path
        self.image_shape = (3, self.size, self.size)
        self.folders = {"train": "train", "test": "val"}

    def prepare_data(self) -> None:
        """Download and unpack if the folder is missing."""
        url, md5 = tv.Imagenette._ARCHIVES[self.archive]
        archive = self.root / url.rsplit("/", 1)[-1]
        opened(tv.Imagenette, "Imagenette", self.root, self.download, [(archive, md5)], split="val", size=self.archive)

    def read(self, split: str) -> OnDisk:
        """The files of a split and their labels."""
        if not self.path.is_dir():
            self.prepare_data()
        self.class_names = subfolders(self.path / "train")
        return super().read(split)


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, without hidden ones."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def is_labelled(folder: Path, class_names: list[str]) -> bool:
    """Whether a folder has class folders or an annotation file."""
    return (folder / ANNOTATIONS).is_file() or bool(set(subfolders(folder)) & set(class_names))


def labelled_files(folder: Path, class_names: list[str]) -> tuple[list[Path], list[int]]:
    """Sorted image files, and for each the index of its class in `class_names`."""
    annotations = folder / ANNOTATIONS
    if annotations.is_file():
        rows = [line.split("\t") for line in annotations.read_text(encoding="utf-8").splitlines() if line.strip()]
        bad = [row for row in rows if len(row) < 2 or row[1] not in class_names]
        require(not bad, f"{annotations}: {' '.join(bad[0]) if bad else ''} names no class folder of train")
        return [folder / "images" / row[0] for row in rows], [class_names.index(row[1]) for row in rows]
    if strange := sorted(set(subfolders(folder)) - set(class_names)):
        raise DataError(f"{folder} has the class {strange[0]}, which train does not: remove it, or add it to train")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        files = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in EXTENSIONS)
        paths += files
        labels += [label] * len(files)
    require(len(paths) > 0, f"{folder} has no images of the classes of train: check the folder")
    return paths, labels


def _of_every_class(labels: list[int], class_names: list[str], folder: Path) -> None:
    """Refuse a training folder in which a class has no image."""
    present = set(labels)
    empty = [name for label, name in enumerate(class_names) if label not in present]
    endings = ", ".join(sorted(EXTENSIONS))
    require(not empty, f"{folder}: no image ({endings}) of the class {empty[0] if empty else ''}: remove its folder")
