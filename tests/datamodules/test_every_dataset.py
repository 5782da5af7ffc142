import pickle
import struct

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from PIL import Image
from scipy.io import savemat
from torchvision.datasets.utils import calculate_md5

from lit_fa import datamodules as data

FACTS = [
    (data.Digits, {}, 10, (1, 8, 8)),
    (data.MNIST, {}, 10, (1, 28, 28)),
    (data.FashionMNIST, {}, 10, (1, 28, 28)),
    (data.KMNIST, {}, 10, (1, 28, 28)),
    (data.EMNIST, {}, 26, (1, 28, 28)),
    (data.EMNIST, {"split": "balanced"}, 47, (1, 28, 28)),
    (data.EMNIST, {"split": "digits"}, 10, (1, 28, 28)),
    (data.EMNIST, {"split": "byclass"}, 62, (1, 28, 28)),
    (data.CIFAR10, {}, 10, (3, 32, 32)),
    (data.CIFAR100, {}, 100, (3, 32, 32)),
    (data.SVHN, {}, 10, (3, 32, 32)),
    (data.STL10, {}, 10, (3, 96, 96)),
    (data.Imagenette, {}, 10, (3, 160, 160)),
    (data.Imagenette, {"size": 224}, 10, (3, 224, 224)),
    (data.MedMNIST, {"flag": "bloodmnist"}, 8, (3, 28, 28)),
    (data.MedMNIST, {"flag": "pneumoniamnist", "size": 64}, 2, (1, 64, 64)),
    (data.Synthetic, {"num_classes": 4, "image_shape": (3, 5, 7)}, 4, (3, 5, 7)),
]
DOWNLOADED = [facts[0] for facts in FACTS if facts[0] not in (data.Digits, data.Synthetic)]


@pytest.mark.parametrize(("kind", "options", "num_classes", "image_shape"), FACTS)
def test_shape_and_classes_are_known_without_any_file(tmp_path, kind, options, num_classes, image_shape):
    module = kind(root=str(tmp_path / "nothing"), **options)
    assert (module.num_classes, tuple(module.image_shape)) == (num_classes, image_shape)
    assert module.example(3).shape == (3, *image_shape)
    assert kind(root=str(tmp_path), flatten=True, **options).example().shape == (2, np.prod(image_shape))
    assert kind(root=str(tmp_path), classes=[1, 0], resize=9, **options).example().shape == (2, image_shape[0], 9, 9)
    assert kind(root=str(tmp_path), classes=[1, 0], **options).num_classes == 2
    assert module.mean is None or len(module.mean) == len(module.std) == image_shape[0]


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("kind", sorted(set(DOWNLOADED), key=lambda kind: kind.__name__))
def test_a_missing_set_without_a_network_is_one_line_that_says_what_to_do(tmp_path, kind, download):
    with pytest.raises(data.DataError, match=r"LIT_FA_DATA or --data.init_args.root") as error:
        kind(root=str(tmp_path), download=download).prepare_data()
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist_like(folder, prefixes, images, labels):
    folder.mkdir(parents=True)
    for prefix in prefixes:
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)


GREY = np.arange(6 * 28 * 28, dtype=np.uint32).reshape(6, 28, 28) % 251


def test_kmnist_is_read_as_it_is(tmp_path):
    write_mnist_like(tmp_path / "KMNIST" / "raw", ["train", "t10k"], GREY, np.arange(6))
    module = data.KMNIST(root=str(tmp_path), normalize="none")
    module.prepare_data()
    module.setup()
    assert torch.equal(module.train_set.images, torch.from_numpy(GREY.astype(np.float32)).unsqueeze(1))
    assert module.train_set.labels.tolist() == list(range(6))


def test_emnist_letters_are_upright_and_counted_from_zero(tmp_path):
    prefixes = ["emnist-letters-train", "emnist-letters-test"]
    write_mnist_like(tmp_path / "EMNIST" / "raw", prefixes, GREY, np.array([1, 2, 3, 24, 25, 26]))
    module = data.EMNIST(root=str(tmp_path), normalize="none")
    module.setup()
    assert torch.equal(module.train_set.images[:, 0], torch.from_numpy(GREY.astype(np.float32)).transpose(1, 2))
    assert module.train_set.labels.tolist() == [0, 1, 2, 23, 24, 25]


def write_cifar(root, source, key, monkeypatch):
    folder = root / source.base_folder
    folder.mkdir()
    pixels = np.arange(4 * 3072, dtype=np.uint32).reshape(4, 3072) % 256
    names = [name for name, _ in source.train_list + source.test_list]
    for name in names:
        (folder / name).write_bytes(pickle.dumps({"data": pixels.astype(np.uint8), key: [0, 1, 2, 9]}))
    (folder / source.meta["filename"]).write_bytes(pickle.dumps({source.meta["key"]: [str(i) for i in range(10)]}))
    for attribute in ("train_list", "test_list"):
        files = [[name, calculate_md5(folder / name)] for name, _ in getattr(source, attribute)]
        monkeypatch.setattr(source, attribute, files)
    monkeypatch.setattr(source, "meta", source.meta | {"md5": calculate_md5(folder / source.meta["filename"])})
    return torch.from_numpy(pixels).view(4, 3, 32, 32).float()


@pytest.mark.parametrize(
    ("kind", "source", "key", "parts"),
    [(data.CIFAR10, tv.CIFAR10, "labels", 5), (data.CIFAR100, tv.CIFAR100, "fine_labels", 1)],
)
def test_cifar_is_read_channels_first(tmp_path, monkeypatch, kind, source, key, parts):
    expected = write_cifar(tmp_path, source, key, monkeypatch)
    module = kind(root=str(tmp_path), normalize="none")
    module.prepare_data()
    module.setup()
    assert torch.equal(module.test_set.images, expected)
    assert module.train_set.labels.tolist() == [0, 1, 2, 9] * parts


def test_a_cifar_batch_with_a_wrong_checksum_is_named(tmp_path, monkeypatch):
    write_cifar(tmp_path, tv.CIFAR10, "labels", monkeypatch)
    broken = tmp_path / tv.CIFAR10.base_folder / "data_batch_3"
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(data.DataError, match=r"data_batch_3: wrong checksum.*delete it"):
        data.CIFAR10(root=str(tmp_path)).prepare_data()


def test_svhn_has_label_zero_for_the_digit_zero(tmp_path, monkeypatch):
    pixels = np.arange(32 * 32 * 3 * 2, dtype=np.uint32).reshape(32, 32, 3, 2) % 256
    listed = {}
    for split, (url, name, _) in tv.SVHN.split_list.items():
        savemat(tmp_path / name, {"X": pixels.astype(np.uint8), "y": np.array([[10], [3]])})
        listed[split] = [url, name, calculate_md5(tmp_path / name)]
    monkeypatch.setattr(tv.SVHN, "split_list", listed)
    module = data.SVHN(root=str(tmp_path), normalize="none")
    module.prepare_data()
    module.setup()
    assert module.train_set.labels.tolist() == [0, 3]
    assert torch.equal(module.train_set.images, torch.from_numpy(pixels).permute(3, 2, 0, 1).float())


def test_stl10_images_stand_upright(tmp_path, monkeypatch):
    folder = tmp_path / tv.STL10.base_folder
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96), np.uint8)
    for attribute in ("train_list", "test_list"):
        files = []
        for name, _ in getattr(tv.STL10, attribute):
            # the format stores columns first, and labels from 1
            content = images.transpose(0, 1, 3, 2).tobytes() if "_X" in name else bytes([1, 10])
            (folder / name).write_bytes(content)
            files.append([name, calculate_md5(folder / name)])
        monkeypatch.setattr(tv.STL10, attribute, files)
    (folder / tv.STL10.class_names_file).write_text("airplane\n")
    module = data.STL10(root=str(tmp_path), normalize="none")
    module.prepare_data()
    module.setup()
    assert torch.equal(module.test_set.images, torch.from_numpy(images).float())
    assert module.test_set.labels.tolist() == [0, 9]


def write_folder(folder, classes, n=3, size=(20, 12)):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(n):
            Image.new("RGB", size, (40 * number, 10 * index, 255)).save(folder / name / f"{index}.png")


def ready(module):
    module.setup()
    return module


def test_a_folder_of_images_is_decoded_to_squares(tmp_path):
    write_folder(tmp_path / "train", ["cat", "ant"])
    write_folder(tmp_path / "val", ["cat", "ant"], n=2)
    module = ready(data.ImageFolder(str(tmp_path), size=8, normalize="none"))
    assert (module.num_classes, module.image_shape, module.validation_is_test) == (2, (3, 8, 8), True)
    assert module.class_names == ["ant", "cat"]
    assert module.train_set.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert module.train_set.images[:, 0].amax((1, 2)).tolist() == [40, 40, 40, 0, 0, 0]
    assert len(module.test_set) == 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_decoding_batch_by_batch_gives_the_batches_of_memory(tmp_path, num_workers):
    write_folder(tmp_path / "train", ["a", "b", "c"])
    write_folder(tmp_path / "test", ["a", "b", "c"])
    options = {"path": str(tmp_path), "size": 8, "batch_size": 4, "augment": "crop_flip", "classes": [2, 0]}
    memory = ready(data.ImageFolder(**options))
    disk = ready(data.ImageFolder(**options, in_memory_limit=0, num_workers=num_workers))
    state = torch.get_rng_state()
    for (images, labels), (expected, expected_labels) in zip(
        disk.train_dataloader(), memory.train_dataloader(), strict=True
    ):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)
    assert torch.equal(torch.get_rng_state(), state)
    (images, _), *_ = disk.test_dataloader()
    assert torch.equal(images, memory.test_set.images)


def test_tiny_imagenet_annotations_stand_for_class_folders(tmp_path):
    write_folder(tmp_path / "train", ["n1", "n2"])
    (tmp_path / "val" / "images").mkdir(parents=True)
    for name in ("val_0.JPEG", "val_1.JPEG"):
        Image.new("L", (64, 64)).save(tmp_path / "val" / "images" / name)
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn2\t0\t0\t1\t1\nval_1.JPEG\tn1\t0\t0\t1\t1\n")
    (tmp_path / "test" / "images").mkdir(parents=True)
    module = ready(data.ImageFolder(str(tmp_path), size=16))
    assert module.test_set.labels.tolist() == [1, 0]
    assert module.test_set.images.shape == (2, 3, 16, 16)


def test_a_folder_with_val_and_test_validates_on_val(tmp_path):
    for split, n in (("train", 3), ("val", 1), ("test", 2)):
        write_folder(tmp_path / split, ["a", "b"], n=n)
    module = ready(data.ImageFolder(str(tmp_path), size=8))
    assert not module.validation_is_test
    assert (len(module.val_set), len(module.test_set)) == (2, 4)


def test_imagenette_is_read_from_its_archive_folder(tmp_path):
    wnids = sorted(tv.Imagenette._WNID_TO_CLASS)
    write_folder(tmp_path / "imagenette2-160" / "train", wnids, n=1)
    write_folder(tmp_path / "imagenette2-160" / "val", wnids, n=1)
    module = ready(data.Imagenette(root=str(tmp_path), size=16))
    assert module.train_set.labels.tolist() == list(range(10))


@pytest.mark.parametrize("break_it", ["truncate", "text"])
def test_a_broken_image_file_is_named(tmp_path, break_it):
    write_folder(tmp_path / "train", ["a"])
    write_folder(tmp_path / "val", ["a"])
    broken = tmp_path / "train" / "a" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40] if break_it == "truncate" else b"not an image")
    with pytest.raises(data.DataError, match=r"1\.png: not a readable image"):
        ready(data.ImageFolder(str(tmp_path), size=8))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        ([], "train is not a folder"),
        (["train"], "no class folders"),
        (["train/a"], "neither val nor test"),
        (["train/a", "val/b"], "neither val nor test"),
        (["train/a", "val/a"], "no images"),
    ],
)
def test_a_folder_that_is_no_image_set_is_refused(tmp_path, make, what):
    for folder in make:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(data.DataError, match=what):
        ready(data.ImageFolder(str(tmp_path)))


def test_medmnist_uses_its_official_validation_images(tmp_path, write_npz):
    (tmp_path / "medmnist").mkdir()
    write_npz("medmnist/bloodmnist.npz")
    module = ready(data.MedMNIST("bloodmnist", root=str(tmp_path), resize=6))
    assert not module.validation_is_test
    assert (len(module.train_set), len(module.val_set), len(module.test_set)) == (40, 10, 20)


def test_a_medmnist_file_with_a_wrong_checksum_is_named(tmp_path, write_npz):
    (tmp_path / "medmnist").mkdir()
    write_npz("medmnist/bloodmnist.npz")
    with pytest.raises(data.DataError, match=r"bloodmnist\.npz: wrong checksum"):
        data.MedMNIST("bloodmnist", root=str(tmp_path)).prepare_data()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"flag": "bloodmist"}, "nearest: bloodmnist"),
        ({"flag": "chestmnist"}, "is not known"),  # several labels for each image
        ({"flag": "organmnist3d"}, "is not known"),
        ({"flag": "bloodmnist", "size": 32}, "28, 64, 128 and 224"),
    ],
)
def test_a_medmnist_set_that_does_not_exist_is_refused(options, what):
    with pytest.raises(data.DataError, match=what):
        data.MedMNIST(**options)


def test_medmnist_labels_outside_its_classes_are_refused(tmp_path, write_npz):
    (tmp_path / "medmnist").mkdir()
    write_npz("medmnist/pneumoniamnist.npz", channels=1)  # four classes where the set has two
    with pytest.raises(data.DataError, match="labels run from 0 to 3, but there are 2 classes"):
        ready(data.MedMNIST("pneumoniamnist", root=str(tmp_path)))


def test_an_emnist_split_that_does_not_exist_is_refused():
    with pytest.raises(data.DataError, match="nearest: letters"):
        data.EMNIST(split="leters")
