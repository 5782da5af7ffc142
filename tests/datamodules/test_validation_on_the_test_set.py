"""Where validation is on the test set a run says so, and nothing is chosen by it unless the data allow that."""

import logging
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn

from lit_fa.datamodules import DataError, Digits, Federated
from lit_fa.federated import LocalSGD
from lit_fa.modules import Classifier, FederatedClassifier
from lit_fa.trial import ReportToStudy

CHOICES = {
    "early stopping": ({"callbacks": [EarlyStopping("val/loss")]}, "EarlyStopping chooses by val/loss"),
    "a checkpoint": (
        {"callbacks": [ModelCheckpoint(monitor="val/accuracy", mode="max")]},
        "ModelCheckpoint chooses by val/accuracy",
    ),
    "Lightning's plateau": (
        {"scheduler": partial(ReduceLROnPlateau, monitor="val/accuracy", mode="max")},
        "ReduceLROnPlateau chooses by val/accuracy",
    ),
    "torch's plateau": (
        {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau},
        "ReduceLROnPlateau chooses by val/loss",
    ),
    "a sweep": ({"callbacks": [ReportToStudy(None, "val/accuracy", {})]}, "the sweep chooses by val/accuracy"),
}


def run(tmp_path, callbacks=(), scheduler=None, federated=False, test=False, **options):
    data = Digits(flatten=True, limit_train=64, limit_test=40, **options)
    network = nn.Linear(64, 10) if federated else nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    common = {"image_shape": (64,), "scheduler": scheduler}
    if federated:
        data = Federated(data, clients=4, clients_per_round=2)
        module = FederatedClassifier(
            nn.Sequential(network), local_optimizer=LocalSGD(0.1), executor="sequential", **common
        )
    else:
        module = Classifier(network, optimizer=partial(torch.optim.SGD, lr=0.1), **common)
    trainer = L.Trainer(
        default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", logger=False, callbacks=[*callbacks],
        enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
    )  # fmt: skip
    (trainer.test if test else trainer.fit)(module, datamodule=data)
    assert test or trainer.global_step > 0
    return data


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_by_the_test_set_is_refused_in_one_line(choice, tmp_path):
    options, says = CHOICES[choice]
    with pytest.raises(DataError, match=rf"^{says}, and validation is on the test set: hold .* val_size .* allow$"):
        run(tmp_path, **options)


@pytest.mark.parametrize("choice", ["early stopping", "a checkpoint", "Lightning's plateau"])
def test_a_federation_refuses_it_as_well(choice, tmp_path):
    options, says = CHOICES[choice]
    with pytest.raises(DataError, match=says):
        run(tmp_path, federated=True, **options)


@pytest.mark.parametrize("options", [{"validation_is_test": "allow"}, {"val_size": 16}])
@pytest.mark.parametrize("choice", ["early stopping", "torch's plateau"])
def test_it_is_granted_where_it_is_allowed_or_images_are_held_out(choice, options, tmp_path):
    assert run(tmp_path, **CHOICES[choice][0], **options).validation_is_test == ("val_size" not in options)


def test_what_monitors_training_is_no_choice_by_the_test_set(tmp_path):
    run(tmp_path, callbacks=[EarlyStopping("train/accuracy", mode="max", check_on_train_epoch_end=True)])


@pytest.mark.parametrize("federated", [False, True])
def test_a_run_says_once_that_validation_is_on_the_test_set(federated, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "lit_fa.data"):
        run(tmp_path, federated=federated)
    assert [r.message for r in caplog.records if r.name == "lit_fa.data"] == [
        "validation is on the test set: Digits has val_size 0, so every val/ metric is a test metric"
    ]


@pytest.mark.parametrize("options", [{"val_size": 16}, {"test": True}])
def test_nothing_is_said_of_images_held_out_or_of_a_test(options, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "lit_fa.data"):
        run(tmp_path, **options)
    assert not [r for r in caplog.records if r.name == "lit_fa.data"]


def test_another_word_than_refuse_or_allow_is_refused():
    with pytest.raises(DataError, match="validation_is_test='yes' is not known"):
        Digits(validation_is_test="yes")
