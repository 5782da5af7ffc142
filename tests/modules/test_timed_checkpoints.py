"""`ModelCheckpoint(train_time_interval=...)` saves, and what it saves goes on bit for bit."""

from datetime import timedelta
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_fa.datamodules import Digits, Federated
from lit_fa.federated import LocalSGD
from lit_fa.modules import Classifier, FederatedClassifier
from lit_fa.rules import FeedbackAlignment

QUIET = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
SHAPES = {"image_shape": (1, 8, 8), "input_shape": (64,), "network_args": {"hidden": [8]}}


def fitted(folder: Path, seconds: float, *, federated: bool = False, resume: Path | None = None) -> L.LightningModule:
    L.seed_everything(0, verbose=False)
    data = Digits(flatten=True, batch_size=16, limit_train=48, limit_test=20)
    if federated:
        data = Federated(data, 6, 2)
        model = FederatedClassifier("mlp", FeedbackAlignment(), local_optimizer=LocalSGD(lr=0.1), **SHAPES)
    else:
        model = Classifier("mlp", FeedbackAlignment(), **SHAPES)
    saved = ModelCheckpoint(folder, "{step}", train_time_interval=timedelta(seconds=seconds), save_top_k=-1)
    options = {"callbacks": [saved], "max_epochs": 2, "accelerator": "cpu", "default_root_dir": folder}
    L.Trainer(**QUIET, **options).fit(model, data, ckpt_path=resume)
    return model


@pytest.mark.parametrize("federated", [False, True])
def test_a_checkpoint_by_time_is_saved_and_goes_on_bit_for_bit(federated: bool, tmp_path: Path):
    whole = fitted(tmp_path / "whole", 0, federated=federated)
    saved = sorted((tmp_path / "whole").glob("*.ckpt"))
    assert [path.name for path in saved] == [f"step={n}.ckpt" for n in range(1, len(saved) + 1)]
    assert len(saved) == (2 if federated else 6)
    half = saved[len(saved) // 2 - 1]  # the last step of the first epoch
    resumed = fitted(tmp_path / "resumed", 3600, federated=federated, resume=half)
    assert list((tmp_path / "resumed").glob("*.ckpt")) == []  # an hour is not over
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
