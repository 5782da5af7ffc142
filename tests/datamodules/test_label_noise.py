import json
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from lit_fa.datamodules import DataError, Digits, Synthetic
from lit_fa.datamodules.labels import replace_labels


def ready(**options) -> Digits:
    data = Digits(**options)
    data.setup()
    return data


def test_flipped_labels_are_the_same_after_a_restart():
    torch.manual_seed(1)
    first = ready(label_noise=0.4, noise_seed=5)
    torch.manual_seed(2)
    again = ready(label_noise=0.4, noise_seed=5, seed=9, batch_size=7)
    assert torch.equal(first.flipped, again.flipped)
    assert torch.equal(first.train_set.labels, again.train_set.labels)


def test_flipped_are_exactly_the_images_with_a_wrong_label():
    clean, noisy = ready(), ready(label_noise=0.4)
    wrong = (clean.train_set.labels != noisy.train_set.labels).nonzero().flatten()
    assert torch.equal(noisy.flipped, wrong)
    assert len(clean.flipped) == 0


def test_without_the_true_class_exactly_the_share_is_wrong():
    assert len(ready(label_noise=0.4, noise_excludes_true_class=True).flipped) == round(0.4 * 1437)


def test_a_uniform_draw_leaves_a_tenth_of_the_replaced_labels_right():
    labels = torch.arange(100_000) % 10
    wrong = (replace_labels(labels, 0.5, 10, seed=0) != labels).double().mean()
    assert wrong == pytest.approx(0.45, abs=0.005)  # three standard deviations of 50,000 draws are 0.004


def test_replaced_labels_are_uniform_over_all_classes():
    noisy = replace_labels(torch.zeros(50_000, dtype=torch.int64), 1.0, 10, seed=3)
    assert torch.bincount(noisy, minlength=10).double().div(5_000).sub(1).abs().max() < 0.05


def test_a_larger_share_keeps_what_a_smaller_one_replaced():
    labels = torch.arange(1000) % 10
    little, much = (replace_labels(labels, share, 10, seed=0) for share in (0.2, 0.6))
    changed = little != labels
    assert torch.equal(little[changed], much[changed])


def test_validation_and_test_labels_stay_clean():
    clean, noisy = (ready(label_noise=share, val_size=200) for share in (0.0, 1.0))
    assert torch.equal(clean.val_set.labels, noisy.val_set.labels)
    assert torch.equal(clean.test_set.labels, noisy.test_set.labels)
    assert not torch.equal(clean.train_set.labels, noisy.train_set.labels)


def test_noise_of_an_image_does_not_depend_on_the_validation_split():
    whole, part = ready(label_noise=0.4), ready(label_noise=0.4, val_size=300)
    assert torch.equal(part.train_set.labels, whole.train_set.labels[part.train_indices])
    assert set(part.flipped.tolist()) == set(whole.flipped.tolist()) & set(part.train_indices.tolist())


def test_flipped_counts_in_the_original_training_set_under_a_class_subset():
    clean = ready()
    data = ready(classes=[3, 8], label_noise=0.5, noise_excludes_true_class=True)
    assert set(clean.train_set.labels[data.flipped].tolist()) <= {3, 8}
    assert len(data.flipped) == round(0.5 * len(data.train_set))


def test_a_trainer_gets_the_flipped_labels_as_a_file(tmp_path):
    data = Synthetic(n_train=64, n_test=10, label_noise=0.25, noise_seed=2)
    logger = CSVLogger(tmp_path)
    trainer = L.Trainer(logger=logger, accelerator="cpu", enable_checkpointing=False)
    trainer.strategy.connect(BoringModel())
    data.trainer = trainer
    data.setup("fit")
    record = json.loads((Path(logger.log_dir) / "label_noise.json").read_text())
    assert record["images"] == data.flipped.tolist()
    assert record["labels_after"] == data.train_set.labels[data.flipped].tolist()
    assert record["labels_before"] == (data.flipped % 10).tolist()


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_of_labels_outside_zero_to_one_is_refused(share):
    with pytest.raises(DataError, match="from 0 to 1"):
        Digits(label_noise=share)


def test_a_trainer_without_a_logger_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Synthetic(n_train=64, n_test=10, label_noise=0.25)
    data.trainer = L.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    data.setup("fit")
    assert not [*tmp_path.iterdir()]
