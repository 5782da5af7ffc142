import gzip
import shutil

import pytest
import torch

from lit_fa.datamodules import CIFAR10, MNIST, DataError, FashionMNIST, Npz
from lit_fa.datamodules.cifar import compressed
from lit_fa.datamodules.npz import read_split


@pytest.fixture
def unpackable(real_file, tmp_path):
    """A root with the published archives of one set, in a folder that may be written to."""

    def link(name: str):
        source = real_file(f"{name}/raw")
        (tmp_path / name / "raw").mkdir(parents=True)
        for archive in source.glob("*.gz"):
            (tmp_path / name / "raw" / archive.name).symlink_to(archive)
        return tmp_path

    return link


@pytest.mark.parametrize(("kind", "first"), [(MNIST, [5, 0, 4, 1, 9]), (FashionMNIST, [9, 0, 0, 3, 0])])
def test_published_archives_are_unpacked_without_a_network(unpackable, kind, first):
    data = kind(root=str(unpackable(kind.__name__)))
    data.prepare_data()
    data.setup()
    assert (len(data.train_set), len(data.test_set)) == (60_000, 10_000)
    assert data.train_set.labels[:5].tolist() == first
    assert data.train_set.images.mean().item() == pytest.approx(0, abs=5e-4)  # statistics have four digits
    assert data.train_set.images.std().item() == pytest.approx(1, abs=5e-4)


def test_a_truncated_archive_is_named(unpackable):
    root = unpackable("MNIST")
    archive = root / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    content = archive.read_bytes()[:10_000]
    archive.unlink()
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: wrong checksum") as error:
        MNIST(root=str(root)).prepare_data()
    assert "\n" not in str(error.value)


def test_a_truncated_unpacked_file_is_one_line(unpackable):
    root = unpackable("MNIST")
    folder = root / "MNIST" / "raw"
    for archive in folder.glob("*.gz"):
        with gzip.open(archive) as packed, open(folder / archive.stem, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    with open(folder / "t10k-images-idx3-ubyte", "r+b") as images:
        images.truncate(5_000)
    with pytest.raises(DataError, match=r"MNIST in .* cannot be read .*delete its unpacked files") as error:
        MNIST(root=str(root)).prepare_data()
    assert "\n" not in str(error.value)


@pytest.mark.slow  # decodes 60,000 files
def test_cifar10_as_jpeg_has_the_statistics_of_cifar10(real_file):
    data = Npz(str(real_file("npz/cifar10_jpeg.npz")))
    assert (data.num_classes, data.image_shape) == (10, (3, 32, 32))
    data.setup()
    assert (len(data.train_set), len(data.test_set)) == (50_000, 10_000)
    assert data.mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-4)
    assert data.std == pytest.approx([0.2470, 0.2435, 0.2616], abs=2e-3)  # JPEG smooths


def test_cifar10_of_jpeg_quality_reads_the_copy_without_a_network(real_file):
    root = real_file("npz/cifar10_jpeg.npz").parents[1]
    data = CIFAR10(root=str(root), jpeg=75, download=False, normalize="unit")
    data.prepare_data()
    data.setup()
    assert (len(data.train_set), len(data.test_set)) == (50_000, 10_000)
    assert data.train_set.labels[:5].tolist() == [6, 9, 9, 4, 1]


def test_compressing_the_published_images_gives_nearly_the_copys_pixels(real_file):
    published = read_split(real_file("npz/cifar10_lossless_subset.npz"), "test")
    copy = read_split(real_file("npz/cifar10_jpeg.npz"), "test").images[: len(published.images)]
    ours = compressed(published.images.permute(0, 2, 3, 1).numpy(), 75)
    difference = (torch.from_numpy(ours).permute(0, 3, 1, 2).float() - copy).abs()
    loss = (published.images.float() - copy).abs().mean()
    assert difference.mean() < 0.15 * loss  # two encoders round differently


def test_emnist_letters_start_at_one_in_the_file_and_at_zero_here(real_file):
    data = Npz(str(real_file("npz/emnist_letters_subset.npz")), label_offset=1)
    assert data.num_classes == 26
    data.setup()
    assert torch.bincount(data.train_set.labels).tolist() == [1000] * 26
    assert torch.bincount(data.test_set.labels).tolist() == [800] * 26


def test_pneumonia_has_validation_images_of_its_own(real_file):
    data = Npz(str(real_file("npz/pneumoniamnist_balanced_subset.npz")))
    assert (data.num_classes, data.image_shape, data.validation_is_test) == (2, (1, 28, 28), False)
    data.setup()
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (2428, 270, 468)
