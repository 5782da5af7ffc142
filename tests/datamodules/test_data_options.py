import jsonargparse
import lightning as L
import pytest
import torch
from torchvision.transforms import v2

from lit_fa.datamodules import DataError, Digits, Npz, Synthetic, VisionDataModule
from lit_fa.datamodules.digits import _parts


def ready(kind=Digits, **options):
    data = kind(**options)
    data.setup()
    return data


def test_digits_are_those_of_scikit_learn_split_by_its_own_function():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits, module = load_digits(), Digits()
    parts = train_test_split(range(1797), test_size=360, random_state=0, stratify=digits.target)
    for split, chosen in zip(("train", "test"), parts, strict=True):
        read = module.read(split)
        assert read.labels.tolist() == digits.target[sorted(chosen)].tolist()
        assert torch.equal(
            read.images[:, 0], (torch.from_numpy(digits.images[sorted(chosen)]) * 255 / 16).round().byte()
        )


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setattr("lit_fa.datamodules.digits.find_spec", lambda _: None)
    _parts.cache_clear()
    with pytest.raises(DataError, match="pip install scikit-learn"):
        Digits().read("train")


def test_digits_are_split_in_equal_shares():
    data = ready()
    assert (len(data.train_set), len(data.test_set)) == (1437, 360)
    assert torch.bincount(data.test_set.labels).tolist() == pytest.approx([36] * 10, abs=2)


def test_standard_images_have_mean_zero_and_deviation_one():
    images = ready().train_set.images
    assert images.mean().item() == pytest.approx(0, abs=1e-3)  # mean and std are given to four digits
    assert images.std().item() == pytest.approx(1, abs=1e-3)


def test_unit_is_pixels_over_255_and_none_is_pixels():
    unit, raw = ready(normalize="unit").train_set.images, ready(normalize="none").train_set.images
    assert (unit.min(), unit.max(), raw.max()) == (0, 1, 255)
    assert torch.allclose(unit * 255, raw)


def test_flat_images_are_the_same_pixels():
    assert torch.equal(ready(flatten=True).train_set.images, ready().train_set.images.flatten(1))


def test_resized_images_have_the_promised_shape():
    data = ready(resize=16, augment="flip", batch_size=10)
    assert data.image_shape == (1, 16, 16)
    assert next(iter(data.train_dataloader()))[0].shape == data.example(10).shape
    assert next(iter(data.test_dataloader()))[0].shape[1:] == (1, 16, 16)


def test_classes_are_relabelled_in_the_order_of_the_list():
    data, whole = ready(classes=[7, 2]), ready()
    assert data.num_classes == 2
    assert torch.equal(whole.train_set.labels[data.train_indices] == 2, data.train_set.labels == 1)
    assert set(data.test_set.labels.tolist()) == {0, 1}


def test_a_number_of_classes_is_drawn_by_its_seed():
    drawn = [tuple(Digits(classes=4, class_seed=seed).classes) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert all(len(set(classes)) == 4 for classes in drawn)


@pytest.mark.parametrize("val_size", [200, 200 / 1437])
def test_validation_images_are_held_out_of_training(val_size):
    data = ready(val_size=val_size)
    assert not data.validation_is_test
    assert (len(data.train_set), len(data.val_set)) == (1237, 200)
    assert not torch.equal(data.train_indices, ready(val_size=val_size, val_seed=1).train_indices)


def test_without_held_out_images_validation_is_the_test_set_and_says_so():
    data = ready()
    assert data.validation_is_test
    assert data.val_set is data.test_set


def test_the_smallest_share_still_holds_out_one_image():
    assert len(ready(val_size=1e-6).val_set) == 1


def test_limits_keep_the_classes_even():
    data = ready(limit_train=100, limit_test=50)
    assert torch.bincount(data.train_set.labels).tolist() == [10] * 10
    assert torch.bincount(data.test_set.labels).tolist() == [5] * 10


def test_setup_a_second_time_changes_nothing():
    data = ready()
    before = data.train_set
    data.setup("test")
    assert data.train_set is before


def test_the_data_root_is_the_argument_then_the_environment_then_the_folder_data(monkeypatch):
    monkeypatch.setenv("LIT_FA_DATA", "/from/environment")
    assert str(Digits(root="/from/argument").root) == "/from/argument"
    assert str(Digits().root) == "/from/environment"
    monkeypatch.delenv("LIT_FA_DATA")
    assert str(Digits().root) == "data"


def test_a_trainer_that_overfits_sees_the_same_batches_in_every_epoch(tmp_path):
    data = ready(Synthetic, n_train=40, n_test=10, batch_size=8)
    data.trainer = L.Trainer(overfit_batches=2, logger=False, default_root_dir=tmp_path, enable_checkpointing=False)
    loader = data.train_dataloader()
    first = next(iter(loader))[1]
    loader.set_epoch(1)
    assert torch.equal(next(iter(loader))[1], first)


def test_synthetic_images_can_be_learnt_by_the_nearest_prototype():
    data = ready(Synthetic, n_train=500, n_test=200, image_shape=(3, 8, 8), num_classes=5, flatten=True)
    train, test = data.train_set, data.test_set
    means = torch.stack([train.images[train.labels == label].mean(0) for label in range(5)])
    guesses = torch.cdist(test.images, means).argmin(1)
    assert (guesses == test.labels).double().mean() > 0.95


def test_synthetic_images_depend_on_their_own_seed():
    first, other = (ready(Synthetic, n_train=10, n_test=4, data_seed=seed).train_set.images for seed in (0, 1))
    assert torch.equal(first, ready(Synthetic, n_train=10, n_test=4, seed=3).train_set.images)
    assert not torch.equal(first, other)


def test_transforms_are_applied_to_training_batches_only():
    data = ready(transforms=[v2.RandomInvert(p=1.0)], normalize="none", batch_size=1437)
    plain = ready(normalize="none", batch_size=1437)
    assert torch.equal(next(iter(data.train_dataloader()))[0], 255 - next(iter(plain.train_dataloader()))[0])
    assert torch.equal(data.test_set.images, plain.test_set.images)


def test_random_transforms_are_the_same_in_every_run_and_differ_between_epochs():
    def epoch(number):
        loader = ready(transforms=[v2.RandomRotation(45)], batch_size=500).train_dataloader()
        loader.set_epoch(number)
        return next(iter(loader))[0].sum()

    assert epoch(0) == epoch(0) != epoch(1)


def test_a_set_too_large_to_be_kept_as_floats_gives_the_same_batches(monkeypatch):
    expected = next(iter(ready().train_dataloader()))[0]
    monkeypatch.setattr("lit_fa.datamodules.vision.READY_LIMIT", 0)
    data = ready()
    assert data.train_set.images.dtype == torch.uint8
    assert torch.equal(next(iter(data.train_dataloader()))[0], expected)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"eval_batch_size": -1}, "eval_batch_size=-1"),
        ({"limit_train": 0}, "limit_train=0"),
        ({"resize": 0}, "resize=0"),
        ({"val_size": -1}, "val_size=-1"),
        ({"classes": [1, 12]}, r"\[12\] do not exist.*0 to 9"),
        ({"classes": [1, 1]}, "each one once"),
        ({"classes": []}, "at least one class"),
        ({"classes": 11}, "1 to 10"),
        ({"normalize": "standart"}, "nearest: standard"),
        ({"augment": "mixup"}, "valid: none, crop_flip, flip, jitter"),
        ({"dtype": "float16"}, "nearest: float"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_in_one_line(options, what):
    with pytest.raises(DataError, match=what) as error:
        Digits(**options)
    assert "\n" not in str(error.value)
    assert error.value.user_error


@pytest.mark.parametrize("val_size", [1437, 5000, 1.0])
def test_validation_that_takes_every_training_image_is_refused(val_size):
    with pytest.raises(DataError, match=f"val_size={val_size}"):
        ready(val_size=val_size)


def test_loaders_before_setup_are_refused():
    with pytest.raises(DataError, match="setup"):
        Digits().train_dataloader()


def test_the_command_line_knows_the_options_of_every_class(write_npz):
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(VisionDataModule, "data")
    path = str(write_npz())
    config = parser.parse_args(["--data=Npz", f"--data.path={path}", "--data.classes=[2,1]", "--data.val_size=0.25"])
    data = parser.instantiate(config).data
    assert isinstance(data, Npz)
    assert (data.classes, data.val_size, data.num_classes) == ([2, 1], 0.25, 2)
    config = parser.parse_args(["--data=Synthetic", "--data.image_shape=[3,5,5]", "--data.limit_train=3"])
    assert parser.instantiate(config).data.image_shape == (3, 5, 5)
