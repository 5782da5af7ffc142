"""Data that would be taken otherwise than they are, refused in one line that names the way out."""

import json
import re

import numpy as np
import pytest
import torch

from lit_fa.datamodules import DataError, Digits, Federated, ImageFolder, MedMNIST, Npz, Synthetic
from lit_fa.datamodules.npz import read_split
from lit_fa.datamodules.partition import dirichlet, shards


@pytest.fixture
def labelled(write_npz):
    """Write a file whose training and test labels are these, with an image for each."""

    def write(train, test=None, **changes):
        test = train if test is None else test
        images = {f"{k}_images": np.zeros((len(v), 6, 6), np.uint8) for k, v in (("train", train), ("test", test))}
        labels = {"train_labels": np.asarray(train), "test_labels": np.asarray(test)}
        return write_npz(**{"val_images": None, "val_labels": None, **images, **labels, **changes})

    return write


@pytest.mark.parametrize("kind", ["int64", "uint8", "float32", "float64", "bool"])
def test_whole_numbers_are_taken_whatever_they_are_stored_as(kind, labelled):
    data = Npz(str(labelled(np.array([0, 1, 1, 0]).astype(kind))))
    assert data.num_classes == 2
    assert torch.equal(data.read("train").labels, torch.tensor([0, 1, 1, 0]))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0.5, 1.5, 0.5], "train_labels have the value 0.5: a class is a whole number"),
        ([0.0, np.nan, 1.0], "train_labels have the value nan: a class is a whole number"),
        ([0.0, np.inf, 1.0], "train_labels have the value inf: a class is a whole number"),
        (["cat", "dog", "cat"], "train_labels are <U3, not whole numbers: number the classes from 0"),
        ([1 + 0j, 0j, 1j], "train_labels are complex128, not whole numbers"),
        ([0, -1, 1], "smallest train label is -1"),
        ([[1, 0], [0, 1], [1, 0]], "train_labels has shape (3, 2); one label for each image is needed"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, says, labelled):
    path = labelled([0, 1, 0], train_labels=np.array(labels))
    with pytest.raises(DataError, match=re.escape(f"{path}: ") + ".*" + re.escape(says)):
        Npz(str(path))


def test_labels_with_a_gap_are_refused_and_two_options_take_them(labelled):
    path = str(labelled([0, 5, 10, 10]))
    says = r"no training image has the label 1, 2, 3, 4, 6, 7, 8, 9: set num_classes: 11 .* or classes: \[0, 5, 10\]"
    with pytest.raises(DataError, match=says):
        Npz(path)
    assert Npz(path, num_classes=11).num_classes == 11
    renumbered = Npz(path, classes=[0, 5, 10])
    renumbered.setup()
    assert renumbered.num_classes == 3
    assert renumbered.train_set.labels.tolist() == [0, 1, 2, 2]


def test_labels_from_one_on_ask_for_an_offset(labelled):
    path = str(labelled([1, 2, 3, 3]))
    with pytest.raises(DataError, match="the training labels begin at 1: set label_offset: 1"):
        Npz(path)
    assert Npz(path, label_offset=1).num_classes == 3


def test_a_class_that_only_the_test_set_has_is_refused(labelled):
    with pytest.raises(DataError, match="no training image has the label 2: set num_classes: 3"):
        Npz(str(labelled([0, 1, 1], [0, 1, 2])))


def test_fewer_classes_than_there_are_labels_are_refused(labelled):
    data = Npz(str(labelled([0, 1, 2])), num_classes=2)
    with pytest.raises(DataError, match="labels run from 0 to 2, but there are 2 classes"):
        data.setup()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test_images": np.zeros((4, 8, 8), np.uint8)}, r"test_images are (8, 8) and train_images (6, 6): scale them"),
        ({"test_images": np.zeros((4, 6, 6, 3), np.uint8)}, "test_images are (6, 6, 3) and train_images (6, 6)"),
        ({"test_images": np.zeros((3, 6, 6), np.uint8)}, "3 test images but 4 labels"),
        ({"train_labels": np.zeros(5, int)}, "4 train images but 5 labels"),
        ({"test_images": None}, "has no key 'test_images'"),
        ({"test_labels": np.zeros(0, int)}, "test_labels is empty"),
    ],
)
def test_splits_that_do_not_fit_each_other_are_refused_before_training(changes, says, labelled):
    with pytest.raises(DataError, match=re.escape(says)):
        Npz(str(labelled([0, 1, 1, 0], **changes)))


@pytest.mark.parametrize("values", [np.full((4, 6, 6), np.nan), np.full((4, 6, 6), 300), np.full((4, 6, 6), -1.0)])
def test_images_that_are_no_bytes_are_refused(values, labelled):
    with pytest.raises(DataError, match=f"train_images is {values.dtype}; save it as uint8, 0 to 255"):
        read_split(labelled([0, 1, 1, 0], train_images=values), "train")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mean": [0.5]}, "mean and std go together"),
        ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "one number for each of 1 channels is needed"),
        ({"mean": [0.5], "std": [0.0]}, "a standard deviation is above 0"),
        ({"num_classes": 0}, "num_classes=0: must be at least 1"),
    ],
)
def test_options_of_a_file_that_would_be_passed_over_are_refused(options, says, labelled):
    with pytest.raises(DataError, match=re.escape(says)):
        Npz(str(labelled([0, 1, 1, 0])), **options)


def test_a_chosen_class_without_a_training_image_is_refused():
    data = Synthetic(n_train=3, n_test=10, num_classes=10, image_shape=(1, 4, 4), classes=[0, 2, 7])
    with pytest.raises(DataError, match=r"Synthetic \(train\) has no image of the classes \[7\]: leave them out"):
        data.setup()


def pictures(root, **folders):
    from PIL import Image

    for place, classes in folders.items():
        for name in classes:
            folder = root / place / name.removesuffix("!")
            folder.mkdir(parents=True)
            if not name.endswith("!"):
                Image.new("RGB", (4, 4)).save(folder / "a.png")
    return str(root)


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ({"train": ["cat", "dog"], "val": ["cat", "dog", "elk"]}, "val has the class elk, which train does not"),
        ({"train": ["cat", "dog", "elk!"], "val": ["cat"]}, "of the class elk: remove its folder"),
    ],
)
def test_class_folders_that_would_be_left_out_are_refused(folders, says, tmp_path):
    with pytest.raises(DataError, match=says):
        ImageFolder(pictures(tmp_path, **folders), size=4).setup()


def test_a_hidden_folder_is_no_class(tmp_path):
    data = ImageFolder(pictures(tmp_path, train=["cat", "dog", ".cache!"], val=["cat", ".cache!"]), size=4)
    data.setup()
    assert (data.num_classes, data.class_names) == (2, ["cat", "dog"])


def test_annotations_of_a_class_without_a_folder_are_refused(tmp_path):
    pictures(tmp_path, train=["cat", "dog"])
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "val_annotations.txt").write_text("a.png\telk\t0\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"val_annotations.txt: a.png elk 0 names no class folder of train"):
        ImageFolder(str(tmp_path), size=4).setup()


@pytest.fixture
def parts(tmp_path):
    def write(parts):
        path = tmp_path / "parts.json"
        path.write_text(json.dumps(parts), encoding="utf-8")
        return str(path)

    return write


def dealt(path, **options):
    data = Federated(
        Digits(limit_train=20), clients_per_round=1, partition="file", partition_file=path, batch_size=4, **options
    )
    data.setup()
    return data


def test_a_partition_file_decides_the_number_of_clients_and_no_option_may_contradict_it(parts):
    path = parts([[*range(8)], [*range(8, 20)]])
    assert (dealt(path).clients, dealt(path, clients=2).clients) == (2, 2)
    with pytest.raises(DataError, match=rf"clients=3, and {path} lists 2: leave clients out, or take that number"):
        dealt(path, clients=3)
    with pytest.raises(DataError, match=r"partition_args=\{'beta': 0.1\}: a partition from a file has none"):
        dealt(path, partition_args={"beta": 0.1})


def test_images_that_a_partition_file_leaves_out_are_counted_aloud(parts):
    with pytest.warns(UserWarning, match="leaves 5 of 20 training images out"):
        dealt(parts([[*range(8)], [*range(8, 15)]]))


def test_without_a_file_there_are_a_hundred_clients():
    assert Federated(Digits()).clients == 100


@pytest.mark.parametrize(
    ("deal", "says"),
    [
        (lambda y: shards(y, 2, 0, per_client=1.5), "per_client=1.5 must be at least 1 and whole"),
        (lambda y: dirichlet(y, 2, 0.5, 0, min_size=1.5), "min_size=1.5 must be at least 1 and whole"),
        (lambda y: dirichlet(y, 2, 0.5, 0, min_size=1, tries=0), "tries=0 must be at least 1"),
        (lambda y: dirichlet(y, 2, "0.5", 0), "beta=0.5 must be above 0"),
        (lambda y: dirichlet(y, 2, float("nan"), 0), "beta=nan must be above 0"),
    ],
)
def test_arguments_of_a_partition_that_are_no_numbers_of_their_kind_are_refused(deal, says):
    with pytest.raises(DataError, match=says):
        deal([0, 1] * 8)


def test_official_sets_are_not_asked_for_a_training_image_of_every_class():
    assert MedMNIST("pneumoniamnist").num_classes == 2
