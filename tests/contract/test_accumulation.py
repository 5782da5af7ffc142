"""Batches that are accumulated are one batch of all their samples: every rule, with a remainder, and across a kill."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn

from datamodules import Synthetic
from lit_fa.modules import Classifier
from lit_fa.rules import ForwardForward, Hoyer, Pruning, SVDBackprop, SVDSpaceAlignment
from tests.cases import CLASSES, RULES, largest_difference

IMAGE, SAMPLES, BATCH, WINDOW, EPOCHS = (
    (1, 4, 4),
    27,
    4,
    4,
    2,
)  # an epoch: batches 4 4 4 4 and 4 4 3, windows of 16 and 11
KEPT_AFTER = 9  # batches: the third window holds two
# options that follow the length of the run
SCHEDULED = {
    "ff_greedy": partial(ForwardForward, schedule="greedy"),
    "svd_pruned": partial(SVDBackprop, pruning=Pruning(0.5, every=1, floor=2, keep=["7"]), hoyer=Hoyer(0.1, 1, 0.6)),
    "ssa_scheduled": partial(SVDSpaceAlignment, beta=1.0, beta_schedule="cosine", hoyer=Hoyer(0.1, 1, 0.6)),
    "ssa_every": partial(SVDSpaceAlignment, orthogonality_every=2, retract_every=2),
}
MAKE = {name: make for name, (make, _) in RULES.items()} | SCHEDULED
COMPARES = "its loss compares the samples of a batch"
# rule: why a batch in parts is not the batch. Without a reason the rule must be equal.
UNEQUAL = {
    "predsim": COMPARES,
    "predsim_pooled": COMPARES,
    "sim": COMPARES,
    "ff_symba": "a wrong label is that of another sample of the batch",
}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 10), nn.Tanh(), nn.Linear(10, 8, bias=False), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(),
        nn.Linear(7, CLASSES),
    ).double()  # fmt: skip


class Keep(L.Callback):
    """Leaves a checkpoint after so many batches, as Ctrl-C does."""

    def __init__(self, path: Path | None):
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if self.path is not None and trainer.fit_loop.total_batch_idx + 1 == KEPT_AFTER:
            trainer.save_checkpoint(self.path)


def trained(rule: str, batch: int, accumulate: int, keep: Path | None = None, resume: Path | None = None) -> dict:
    """State of the learner after two epochs."""
    data = Synthetic(
        n_train=SAMPLES, n_test=4, image_shape=IMAGE, num_classes=CLASSES, batch_size=batch, seed=1, device="cpu",
        dtype="float64",
    )  # fmt: skip
    # decay moves Kolen-Pollack's feedback in its own way, momentum remembers every step
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2)
    module = Classifier(network(), MAKE[rule](), CLASSES, IMAGE, optimizer=sgd, accumulate=accumulate)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, precision="64-true", limit_val_batches=0, callbacks=[Keep(keep)], **quiet
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    assert trainer.global_step == EPOCHS * -(-SAMPLES // (BATCH * WINDOW))
    return module.learner.state_dict()


@pytest.mark.parametrize("rule", MAKE)
def test_accumulated_batches_are_one_batch_of_them_all_also_across_a_kill(rule: str, tmp_path: Path):
    parts = trained(rule, BATCH, WINDOW, keep=tmp_path / "kept.ckpt")
    resumed = trained(rule, BATCH, WINDOW, resume=tmp_path / "kept.ckpt")
    assert largest_difference(parts, resumed) == 0
    difference = largest_difference(trained(rule, BATCH * WINDOW, 1), parts)
    # float64; nothing that is in the list may be equal by now
    assert (difference < 1e-12) is (rule not in UNEQUAL), difference
