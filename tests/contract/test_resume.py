"""A run that was killed and resumed, wherever its checkpoint was written, is bit for bit the run that was not."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from lit_fa.modules import HeadProbe
from tests.cases import OWN_STATE, rules
from tests.contract.training import network_for, record

STEPS_PER_EPOCH = 3
SHORT = {"n_train": 8 * STEPS_PER_EPOCH, "epochs": 2, "save_every": 100, "dropout": 0.3, "augment": "crop_flip"}
PLATEAU = {"scheduler": "plateau", "interval": "epoch"}
ACROSS = {"check_val_every_n_epoch": None}  # validation counts steps of the run
EVERY_STEP = range(1, 2 * STEPS_PER_EPOCH + 1)
OF_EPOCHS = ("val/loss", "val/accuracy", "train/loss_epoch", "train/accuracy")


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)  # not a number


def of_epochs(run: dict) -> list:
    """What loggers got once an epoch: (step, key), value."""
    return [(where, value) for where, value in run["rows"].items() if where[1] in OF_EPOCHS]


def assert_goes_on(folder: Path, stops: Iterable[int], moment: str = "on_train_batch_end", **options: object) -> dict:
    """Stop a run after so many batches, resume it until the next stop, and so on; compare it with a run in one piece.

    Returns the record of the run in one piece.
    """
    options = {**SHORT, **options}
    whole = record(folder / "whole", **options)
    losses, logged, resume = [], [], None
    for batches in stops:
        part = folder / f"until {batches}"
        # another global seed on resuming: nothing that matters may come from it
        seed = 0 if resume is None else batches
        run = record(part, resume=resume, keep_after=batches, moment=moment, stop=True, seed=seed, **options)
        losses, logged, resume = losses + run["losses"], logged + of_epochs(run), str(part / "kept.ckpt")
    resumed = record(folder / "resumed", resume=resume, seed=99, **options)
    assert same(losses + resumed["losses"], whole["losses"])
    assert logged + of_epochs(resumed) == of_epochs(whole)  # no epoch twice, and none left out
    for part in ("state", "optimizer", "schedule", "metrics", "curves", "steps", "predictions"):
        assert same(resumed[part], whole[part]), part
    return whole


@pytest.mark.parametrize("rule", rules("resume", distinct=True, thin=True, more=OWN_STATE))
def test_a_run_resumed_after_every_step_of_an_epoch_equals_one_that_was_not_killed(rule: str, tmp_path: Path):
    assert_goes_on(tmp_path, (1, 2, 3, 6), rule=rule, network=network_for(rule), **PLATEAU)


@pytest.mark.parametrize(
    ("moment", "stops"),
    [
        ("on_train_batch_end", EVERY_STEP),
        ("on_validation_end", (3, 6)),
        ("on_train_epoch_end", (3, 6)),
        ("on_train_epoch_start", (3,)),
        ("on_train_end", (6,)),
    ],
)
@pytest.mark.parametrize("limits", [{"epochs": 2}, {"epochs": None, "trainer": {"max_steps": 6}}])
def test_it_does_not_matter_at_which_hook_the_checkpoint_is_written(
    moment: str, stops: tuple[int, ...], limits: dict, tmp_path: Path
):
    whole = assert_goes_on(tmp_path, stops, moment, rule="fa_uniform", **PLATEAU, **limits)
    assert whole["schedule"][0]["last_epoch"] == 2  # it has seen the loss of every epoch


@pytest.mark.parametrize("options", [{"network": "norm"}, {"network": "norm", "accumulate": 2, "n_train": 32}])
def test_a_batch_that_an_exception_ended_is_done_again(options: dict, tmp_path: Path):
    whole = {"rule": "fa_uniform", "of_exceptions": True, **options}
    # behind the forward and backward pass: dropout has drawn, BatchNorm has averaged, gradients are there
    assert_goes_on(tmp_path, (1, 3, 5), "on_after_backward", **whole)


def test_a_callback_may_save_before_the_module_has_ended_the_epoch(tmp_path: Path):
    assert_goes_on(tmp_path, (3, 6), "on_train_epoch_end", early_keep=True, rule="fa_uniform", **PLATEAU)


@pytest.mark.parametrize(
    "options",
    [
        {"scheduler": "epoch", "interval": "epoch", "trainer": {"limit_val_batches": 0}},
        {"scheduler": "step", "interval": "step"},
        {**PLATEAU, "interval": "step", "n_train": 32, "trainer": {"val_check_interval": 0.5}},
        {**PLATEAU, "epochs": 3, "trainer": {"check_val_every_n_epoch": 2}},
        {**PLATEAU, "epochs": None, "trainer": {"max_steps": 7, "val_check_interval": 2} | ACROSS},
        {**PLATEAU, "n_train": 32, "accumulate": 3},
        {**PLATEAU, "trainer": {"max_steps": 5}},
    ],
    ids=["no validation", "steps", "in an epoch", "every other epoch", "across epochs", "windows", "max_steps"],
)  # fmt: skip
def test_what_is_due_after_a_step_happens_once(options: dict, tmp_path: Path):
    steps = options.get("trainer", {}).get("max_steps") or options.get("n_train", 24) // 8 * options.get("epochs", 2)
    assert_goes_on(tmp_path, range(1, steps + 1), rule="fa_uniform", **options)


@pytest.mark.parametrize(
    ("moment", "options"),
    [
        ("on_train_batch_end", {}),
        ("on_train_epoch_end", {}),
        ("on_validation_end", {"check_on_train_epoch_end": False}),
    ],
)
def test_a_run_that_stops_early_stops_at_the_same_step(moment: str, options: dict, tmp_path: Path):
    # a loss that must rise does not: the second epoch is the last
    early = {"monitor": "val/loss", "mode": "max", "patience": 1, **options}
    whole = assert_goes_on(tmp_path, (3, 6), moment, rule="fa_uniform", epochs=4, early=early)
    assert whole["steps"] == 6


def test_measuring_callbacks_see_no_difference(tmp_path: Path):
    assert_goes_on(tmp_path, (1, 3, 6), rule="fa_uniform", network="mlp", measured=True)


def test_a_checkpoint_of_a_finished_run_has_nothing_to_go_on_with(tmp_path: Path):
    options = {**SHORT, "rule": "fa_uniform"}
    record(tmp_path / "whole", keep_after=6, moment="on_train_end", **options)
    resumed = record(tmp_path / "resumed", resume=str(tmp_path / "whole" / "kept.ckpt"), **options)
    assert resumed["losses"] == []


def test_two_ranks_that_are_resumed_equal_two_that_were_not(tmp_path: Path):
    assert_goes_on(tmp_path, (2, 3), rule="svd_pruned", devices=2, **PLATEAU)


def test_a_run_that_is_killed_leaves_checkpoints_to_go_on_from(tmp_path: Path):
    options = {**SHORT, "rule": "fa_uniform", "save_every": 1}
    assert record(tmp_path / "killed", kill_at=5, **options) == {}
    whole = record(tmp_path / "whole", **options)
    resumed = record(tmp_path / "resumed", resume=str(tmp_path / "killed" / "step=4.ckpt"), seed=5, **options)
    assert same(resumed["losses"], whole["losses"][4:])
    assert same(resumed["state"], whole["state"])


def test_a_probed_and_matched_run_that_is_resumed_is_neither_probed_nor_matched_again(tmp_path: Path):
    options = {"rule": "fwm", "network": "mlp", "probe": HeadProbe(), "rule_options": {"feedback_scale": "bp"}}
    whole = assert_goes_on(tmp_path, (2, 3), **options)
    assert "match/residual/overall" in whole["metrics"]
