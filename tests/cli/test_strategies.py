"""Every strategy that Lightning knows, and every option of DDP, gives training or one line."""

from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from lit_fa.config.values import check_values
from lit_fa.errors import UserError
from lit_fa.modules.trainer_options import check_trainer
from lit_fa.rules import DirectFeedbackAlignment
from tests.cli.lightning_rows import QUIET, classifier
from tests.contract.training import record
from tests.gradients import largest_difference

TRAINS = ("ddp", "fsdp2", "layer_parallel", "single_device")


def checked(**options) -> None:
    """The checks of the command line, and of the module."""
    check_values({"trainer": {name: value for name, value in options.items() if isinstance(value, str | int)}})
    module = options.pop("module", None) or classifier()
    check_trainer(L.Trainer(**QUIET, **options), module)


@pytest.mark.parametrize("word", StrategyRegistry.available_strategies())
def test_every_word_is_accepted_or_refused_in_one_line(word: str):
    devices = 1 if word.startswith("single") else 2
    if word.startswith(TRAINS) and "spawn" not in word:
        checked(strategy=word, devices=devices)
        return
    with pytest.raises(UserError, match=r"trainer\.strategy") as told:
        checked(strategy=word, devices=devices)
    assert "set ddp" in str(told.value)
    assert "\n" not in str(told.value)


def a_hook(state, bucket):
    raise AssertionError("not called")


@pytest.mark.parametrize(
    ("options", "accumulate", "said"),
    [
        ({"static_graph": True}, 2, "accumulate: 1"),
        ({"ddp_comm_hook": a_hook}, 1, "leave them out"),
        ({"ddp_comm_wrapper": a_hook}, 1, "leave them out"),
        ({"ddp_comm_state": object()}, 1, "leave them out"),
        ({"model_averaging_period": 3}, 1, "leave them out"),
    ],
)
def test_an_option_that_would_be_ignored_or_fail_is_refused(options: dict, accumulate: int, said: str):
    with pytest.raises(UserError, match=said):
        checked(strategy=DDPStrategy(**options), devices=2, module=classifier(accumulate=accumulate))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_sum_over_samples_is_refused_on_several_devices(strategy: str):
    # both average over ranks, so a sum would be divided by their number
    rule = DirectFeedbackAlignment("target", target_reduction="sum")
    with pytest.raises(UserError, match="set it to mean"):
        checked(strategy=strategy, devices=2, module=classifier(rule=rule))


@pytest.mark.parametrize("started", ["2", "8"])
def test_more_processes_than_the_trainer_counts_are_refused(started: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", started)
    with pytest.raises(UserError, match="WORLD_SIZE"):
        checked(devices=1)


@pytest.mark.parametrize("started", ["1", "", "many"])
def test_one_process_is_no_launch(started: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", started)
    checked(devices=1)


ALIKE = {"static_graph": True, "gradient_as_bucket_view": True, "broadcast_buffers": False}


@pytest.mark.parametrize(("ddp", "accumulate"), [(ALIKE, 1), ({"find_unused_parameters": True}, 2)])
def test_options_of_ddp_change_no_weight(ddp: dict, accumulate: int, tmp_path: Path):
    options = {"rule": "kolen_pollack", "epochs": 2, "n_train": 29, "accumulate": accumulate, "save_every": 100}
    one = record(tmp_path / "one", **options)
    two = record(tmp_path / "two", **options, devices=2, ddp=ddp)
    assert largest_difference(two["state"], one["state"]) < 1e-12
