"""Windows of accumulation: what they divide by, what survives validation and checkpoints, how runs count."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn

from lit_fa.datamodules import Synthetic
from lit_fa.errors import UserError
from lit_fa.federated.local_optimizers import LocalSchedule
from lit_fa.modules import Classifier, FederatedClassifier, HeadProbe
from lit_fa.modules.accumulation import Window
from lit_fa.modules.length import run_length
from lit_fa.rules import (
    DirectFeedbackAlignment,
    ForwardForward,
    Hoyer,
    Pruning,
    SVDBackprop,
    SVDSpaceAlignment,
)
from tests.federated.federation import loader
from tests.federated.federation import network as small

IMAGE, CLASSES = (1, 4, 4), 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, CLASSES))


def data(batch: int = 4, n: int = 22, **options: object) -> Synthetic:
    shape = {"image_shape": IMAGE, "num_classes": CLASSES, "device": "cpu", "dtype": "float64"}
    return Synthetic(n_train=n, n_test=6, batch_size=batch, seed=1, **shape, **options)


def trained(
    rule: object = None, source: object = None, resume: Path | None = None, trainer: dict | None = None, **options
) -> tuple[Classifier, L.Trainer]:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    quiet |= {"max_epochs": 2, "limit_val_batches": 0, "precision": "64-true"} | (trainer or {})
    made = L.Trainer(accelerator="cpu", **quiet)
    module = Classifier(network().double(), rule, CLASSES, IMAGE, **options)
    made.fit(module, source or data(), ckpt_path=resume, weights_only=False)
    return module, made


def difference(a: Classifier, b: Classifier) -> float:
    pairs = zip(a.learner.state_dict().values(), b.learner.state_dict().values(), strict=True)
    return max((x.double() - y.double()).abs().max().item() for x, y in pairs)


def test_more_batches_than_an_epoch_has_are_the_whole_epoch():
    whole, trainer = trained(source=data(22))
    parts, again = trained(accumulate=100)
    assert trainer.global_step == again.global_step == 2
    assert difference(whole, parts) < 1e-12


def test_streamed_batches_accumulate_as_others_do():
    assert difference(trained(DirectFeedbackAlignment(), data(12))[0],
                      trained(DirectFeedbackAlignment(), accumulate=3, stream=True)[0]) < 1e-12  # fmt: skip


def test_a_probe_leaves_nothing_in_the_first_window():
    probe = HeadProbe(optimizer="sgd", lr=0.1, epochs=1)
    module, _ = trained(accumulate=3, probe=probe, trainer={"max_epochs": 0})
    before = module.network[5].weight.detach().clone()
    options = {"optimizer": partial(torch.optim.SGD, lr=0.0), "accumulate": 3, "probe": probe}
    assert torch.equal(trained(**options)[0].network[5].weight, before)


def test_validation_in_the_middle_of_a_window_leaves_its_gradients():
    validated = {"limit_val_batches": 1.0, "val_check_interval": 1, "num_sanity_val_steps": 0}
    assert difference(trained(accumulate=3)[0], trained(accumulate=3, trainer=validated)[0]) == 0


def test_a_checkpoint_of_a_validation_in_a_window_resumes_bit_for_bit(tmp_path: Path):
    keep = L.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}-{step}-{kept}", save_top_k=-1, save_last=True)
    validated = {"limit_val_batches": 1.0, "val_check_interval": 4, "num_sanity_val_steps": 0}
    whole, _ = trained(accumulate=3, trainer=validated | {"callbacks": [keep], "enable_checkpointing": True})
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=False)["lit_fa"][0]["window"]["batches"] == 1
    assert difference(whole, trained(accumulate=3, resume=last, trainer=validated)[0]) == 0


def test_weights_loaded_for_a_run_of_their_own_bring_no_gradients_along(tmp_path: Path):
    class Keep(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.fit_loop.total_batch_idx == 0:
                trainer.save_checkpoint(tmp_path / "kept.ckpt")

    trained(accumulate=3, trainer={"callbacks": [Keep()]})
    options = {"network": network().double(), "num_classes": CLASSES, "image_shape": IMAGE, "accumulate": 3}
    loaded = Classifier.load_from_checkpoint(tmp_path / "kept.ckpt", weights_only=False, **options)
    assert loaded._resumed is None


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_windows_of_two_ranks_go_on_on_any_number_of_ranks(ranks: int):
    states, layer = [], nn.Linear(2, 1, bias=False)
    for number, samples in enumerate((3, 5)):
        window = Window(4)
        share = window.weigh(samples, lambda _: 4.0)  # the mean of 3 and 5
        layer.weight.grad = torch.full((1, 2), float(number + 1)) * share
        window.add(samples)
        states.append(window.state(layer))
    found, total = [], []
    for rank in range(ranks):
        window = Window(4)
        window.restore(states, layer, rank, ranks)
        found.append(torch.zeros(1, 2) if layer.weight.grad is None else layer.weight.grad)
        total.append(window.samples)
    layer.weight.grad = sum(found) / ranks  # as DDP averages
    window.close(layer, lambda _: sum(total) / ranks)
    assert torch.allclose(layer.weight.grad, torch.full((1, 2), (3 * 1 + 5 * 2) / 8))


def test_a_sum_over_samples_does_not_accumulate():
    with pytest.raises(UserError, match=r"target_reduction: sum does not: set it to mean"):
        trained(DirectFeedbackAlignment("target", target_reduction="sum"), accumulate=2)


@pytest.mark.parametrize(
    ("options", "steps", "epochs"),
    [
        ({"max_epochs": 2}, 6, 2),  # 6 batches, 2 a step
        ({"max_epochs": 2, "limit_train_batches": 5}, 6, 2),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 4, 2),
        ({"max_epochs": 2, "overfit_batches": 3}, 4, 2),
        ({"max_epochs": 9, "max_steps": 4}, 4, 2),  # the second epoch is cut
        ({"max_epochs": -1, "max_steps": 6}, 6, 2),
        ({"max_epochs": 2, "max_steps": 100}, 6, 2),
        ({"max_epochs": 2, "min_epochs": 2, "max_time": {"hours": 1}}, 6, 2),
    ],
)
def test_the_length_of_a_run_is_known_from_its_first_step(options: dict, steps: int, epochs: int):
    seen = []

    class Look(L.Callback):
        def on_before_optimizer_step(self, trainer, module, *_):
            seen.append(module.progress())

    _, trainer = trained(accumulate=2, trainer=options | {"callbacks": [Look()]})
    assert {(p.total_steps, p.total_epochs) for p in seen} == {(steps, epochs)}
    assert trainer.global_step == steps == len(seen)
    assert [p.fraction for p in seen] == [n / steps for n in range(steps)]
    assert run_length(trainer, 2) == (steps, epochs)


def test_greedy_blocks_take_equal_shares_of_a_run_that_accumulates():
    turns = []

    class Look(L.Callback):
        def on_before_optimizer_step(self, trainer, module, *_):
            turns.append(int(module.rule.active))

    trained(ForwardForward(schedule="greedy"), accumulate=2, trainer={"callbacks": [Look()], "max_epochs": 4})
    assert turns == [0] * 6 + [1] * 6


def test_pruning_comes_at_the_same_epochs_however_much_is_accumulated():
    def pruned(accumulate: int) -> list[int]:
        kept = []

        class Look(L.Callback):
            def on_train_epoch_end(self, trainer, module):
                kept.append(int(module.network[3].mask.sum()))

        rule = SVDBackprop(pruning=Pruning(0.5, every=2, after=0.3, floor=1, keep=["5"], physical=False))
        trained(rule, trainer={"callbacks": [Look()], "max_epochs": 6}, accumulate=accumulate)
        return [epoch for epoch in range(1, 6) if kept[epoch] < kept[epoch - 1]][:1]

    assert pruned(1) == pruned(3) == [1]


FOLLOWING = {
    "schedule: greedy": lambda: ForwardForward(schedule="greedy"),
    "pruning": lambda: SVDBackprop(pruning=Pruning()),
    r"hoyer\.until: 0\.3": lambda: SVDSpaceAlignment(hoyer=Hoyer()),
    "beta_schedule: cosine": lambda: SVDSpaceAlignment(beta_schedule="cosine"),
}


@pytest.mark.parametrize("option", FOLLOWING)
@pytest.mark.parametrize("limits", [{"max_epochs": -1}, {"max_epochs": -1, "max_time": {"seconds": 1}}], ids=str)
def test_what_follows_the_length_of_a_run_is_refused_where_that_is_not_known(option: str, limits: dict):
    with pytest.raises(UserError, match=rf"{option}.*: this follows the length of the run") as error:
        trained(FOLLOWING[option](), trainer=limits)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", FOLLOWING)
def test_in_a_federation_the_length_is_its_rounds(option: str):
    def federated(**limits: object) -> None:
        module = FederatedClassifier(
            small(), FOLLOWING[option](), num_classes=4, image_shape=(5,), executor="sequential"
        )
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        L.Trainer(accelerator="cpu", **quiet, **limits).fit(module, loader())

    if option == "pruning":
        with pytest.raises(UserError, match="pruning comes at the end of epochs, which clients do not have"):
            federated()
        return
    with pytest.raises(UserError, match=rf"{option}.*: this follows the length of the run"):
        federated(max_epochs=-1)


def test_a_local_schedule_that_ends_with_the_run_needs_its_rounds():
    options = {
        "num_classes": 4,
        "image_shape": (5,),
        "executor": "sequential",
        "local_schedule": LocalSchedule("cosine"),
    }
    with pytest.raises(UserError, match=r"local_schedule\.kind: cosine: this follows the length of the run"):
        L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=-1).fit(
            FederatedClassifier(small(), **options), loader()
        )
