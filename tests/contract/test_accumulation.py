"""Batches that are accumulated are one batch of all their samples: every rule, with a remainder, and across a kill."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn

from lit_fa.datamodules import Synthetic
from lit_fa.modules import Classifier
from tests.cases import OPTED_OUT, RULES, rules
from tests.contract.training import Keep, record
from tests.gradients import largest_difference
from tests.small_networks import CLASSES

# an epoch: batches 4 4 4 4 and 4 4 3, windows of 16 and 11
IMAGE, SAMPLES, BATCH, WINDOW, EPOCHS = (1, 4, 4), 27, 4, 4, 2
KEPT_AFTER = 9  # batches: the third window holds two


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 10), nn.Tanh(), nn.Linear(10, 8, bias=False), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(),
        nn.Linear(7, CLASSES),
    ).double()  # fmt: skip


def trained(rule: str, batch: int, accumulate: int, keep: Path | None = None, resume: Path | None = None) -> dict:
    """State of the learner after two epochs."""
    data = Synthetic(
        n_train=SAMPLES, n_test=4, image_shape=IMAGE, num_classes=CLASSES, batch_size=batch, seed=1, device="cpu",
        dtype="float64",
    )  # fmt: skip
    # decay moves Kolen-Pollack's feedback in its own way, momentum remembers every step
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2)
    module = Classifier(network(), RULES[rule][0](), CLASSES, IMAGE, optimizer=sgd, accumulate=accumulate)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        precision="64-true",
        limit_val_batches=0,
        callbacks=[Keep(keep, KEPT_AFTER)] if keep else [],
        enable_checkpointing=keep is not None,
        **quiet,
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    assert trainer.global_step == EPOCHS * -(-SAMPLES // (BATCH * WINDOW))
    return module.learner.state_dict()


def in_parts_and_whole(rule: str, folder: Path) -> float:
    """Largest difference between accumulated batches and one; those resumed after a kill are the first bit for bit."""
    parts = trained(rule, BATCH, WINDOW, keep=folder)
    resumed = trained(rule, BATCH, WINDOW, resume=folder / "kept.ckpt")
    assert largest_difference(parts, resumed) == 0
    return largest_difference(trained(rule, BATCH * WINDOW, 1), parts)


@pytest.mark.parametrize("rule", rules("accumulation", distinct=True, thin=True))
def test_accumulated_batches_are_one_batch_of_them_all_also_across_a_kill(rule: str, tmp_path: Path):
    assert in_parts_and_whole(rule, tmp_path) < 1e-12  # float64


@pytest.mark.parametrize("rule", OPTED_OUT["accumulation"])
def test_where_a_rule_compares_the_samples_of_a_batch_it_does_so_in_parts(rule: str, tmp_path: Path):
    assert in_parts_and_whole(rule, tmp_path) > 1e-6


def test_two_ranks_with_unequal_shares_of_a_window_are_one_also_across_a_kill(tmp_path: Path):
    # 27 samples in batches of 8, of which ranks have 4 and 4, in the end 2 and 1; windows of three batches and of one
    options = {"rule": "fa_uniform", "n_train": 27, "accumulate": 3, "epochs": 2, "save_every": 100}
    one = record(tmp_path / "one", **options)
    two = record(tmp_path / "two", devices=2, keep_after=6, **options)
    again = record(tmp_path / "again", devices=2, resume=str(tmp_path / "two" / "kept.ckpt"), **options)
    assert largest_difference(two["state"], one["state"]) < 1e-12
    assert largest_difference(two["state"], again["state"]) == 0
