import numpy as np
import pytest
import torch
from torchvision.datasets.utils import calculate_md5

from lit_fa.datamodules import DataError, Npz


def ready(path, **options):
    data = Npz(str(path), **options)
    data.setup()
    return data


@pytest.mark.parametrize("channels", [1, 3])
def test_headers_say_shape_and_classes(write_npz, channels):
    data = Npz(str(write_npz(channels=channels)))
    assert (data.num_classes, data.image_shape, data.validation_is_test) == (4, (channels, 6, 6), False)


def test_images_are_channels_first_and_in_order(write_npz):
    path = write_npz()
    with np.load(path) as arrays:
        expected = torch.from_numpy(arrays["val_images"]).permute(0, 3, 1, 2).float()
    data = ready(path, normalize="none")
    assert torch.equal(data.val_set.images, expected)
    assert data.val_set.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_without_validation_images_the_test_set_is_used(write_npz):
    data = ready(write_npz(sizes={"train": 8, "test": 8}))
    assert data.validation_is_test
    assert data.val_set is data.test_set


def test_held_out_images_take_the_place_of_the_validation_part(write_npz):
    data = ready(write_npz(), val_size=15)
    assert (len(data.train_set), len(data.val_set)) == (25, 15)


def test_mean_and_deviation_are_measured_on_training_images(write_npz):
    data = ready(write_npz(), dtype="float64")
    images = data.train_set.images
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert images.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * 3)


def test_given_mean_and_deviation_are_used(write_npz):
    data = ready(write_npz(), mean=[0.5] * 3, std=[0.25] * 3)
    raw = ready(write_npz(), normalize="unit")
    assert torch.allclose(data.train_set.images, (raw.train_set.images - 0.5) / 0.25, atol=1e-6)


def test_a_path_is_looked_for_inside_the_root(write_npz):
    path = write_npz()
    assert Npz(path.name, root=str(path.parent)).path == path


def test_label_offset_is_subtracted(write_npz):
    labels = {f"{split}_labels": np.arange(n) % 4 + 1 for split, n in (("train", 40), ("val", 10), ("test", 20))}
    path = write_npz(**labels)
    assert ready(path, label_offset=1).train_set.labels.tolist() == [i % 4 for i in range(40)]


def test_the_right_checksum_is_accepted_and_a_wrong_one_is_not(write_npz):
    path = write_npz()
    assert Npz(str(path), md5=calculate_md5(path)).num_classes == 4
    with pytest.raises(DataError, match="wrong checksum"):
        Npz(str(path), md5="0" * 32)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz does not exist.*LIT_FA_DATA or --data\.init_args\.root"):
        Npz("none.npz", root=str(tmp_path))


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_a_truncated_file_is_named(write_npz, keep):
    path = write_npz()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"small\.npz.*get it again") as error:
        Npz(str(path))
    assert "\n" not in str(error.value)


def test_flipped_bits_in_the_images_are_found(write_npz):
    path = write_npz()
    content = bytearray(path.read_bytes())
    content[1000] ^= 255  # inside the training images; the archive keeps a CRC
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot read train_images"):
        ready(path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"train_images": None}, "no key 'train_images'"),
        ({"test_labels": None}, "no key 'test_labels'.*it has"),
        ({"test_images": None}, "no key 'test_images'"),
        ({"train_images": np.zeros((40, 6), np.uint8)}, r"shape \(40, 6\)"),
        ({"train_images": np.zeros((40, 6, 6, 3), np.float32)}, "float32; save it as uint8"),
        ({"train_labels": np.zeros(39, np.uint8)}, "40 train images but 39 labels"),
        ({"train_labels": np.zeros((40, 3), np.uint8)}, "one label for each image"),
        ({"test_labels": np.zeros(0, np.uint8)}, "test_labels is empty"),
        ({"val_labels": np.full(10, -2)}, "smallest val label is -2"),
        ({"train_labels": np.array([None] * 40)}, "cannot read train_labels"),
    ],
)
def test_a_file_that_breaks_the_convention_is_refused_in_one_line(write_npz, changes, what):
    with pytest.raises(DataError, match=what) as error:
        ready(write_npz(**changes))
    assert "\n" not in str(error.value)


def test_a_label_offset_larger_than_the_smallest_label_is_refused(write_npz):
    with pytest.raises(DataError, match="set label_offset"):
        Npz(str(write_npz()), label_offset=1)


def test_a_class_subset_without_any_test_image_is_refused(write_npz):
    path = write_npz(test_labels=np.zeros(20, np.uint8))
    with pytest.raises(DataError, match=r"\(test\) has no image of the classes \[2, 3\]"):
        ready(path, classes=[2, 3])


def test_labels_are_checked_against_the_number_of_classes(write_npz):
    data = Npz(str(write_npz()))
    data.num_original_classes = 3
    with pytest.raises(DataError, match="labels run from 0 to 3, but there are 3 classes"):
        data.setup()
