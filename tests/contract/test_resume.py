"""A run that was killed and resumed is, bit for bit, the run that was not."""

from pathlib import Path

import pytest
import torch

from lit_fa.modules import HeadProbe
from tests.cases import rules
from tests.contract.training import network_for, record

SHORT = {"n_train": 24}  # three steps an epoch, of three epochs
STEPS_PER_EPOCH, KILLED_AT = 3, 5  # in the middle of the second epoch
RANDOM = {"dropout": 0.3, "augment": "crop_flip"}


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return all(map(same, a, b)) and len(a) == len(b) if isinstance(a, list) else a == b


def resumed_after_a_kill(folder: Path, killed_at: int = KILLED_AT, **options: object) -> tuple[dict, dict]:
    """(record of the run from the checkpoint, record of the run without interruption)."""
    # a kill may come between two checkpoints: go on from the one before, which repeats a step
    before = killed_at - 1
    options = {"save_every": before, **SHORT, **options}
    record(folder / "killed", kill_at=killed_at, **options)
    whole = record(folder / "whole", **options)
    # another global seed: nothing that matters may come from it
    return record(folder / "resumed", resume=str(folder / "killed" / f"step={before}.ckpt"), seed=5, **options), whole


def assert_goes_on(resumed: dict, whole: dict, killed_at: int = KILLED_AT) -> None:
    assert len(whole["losses"]) == 3 * STEPS_PER_EPOCH
    assert same(resumed["losses"], whole["losses"][killed_at - 1 :])
    for part in ("state", "optimizer", "metrics"):
        assert same(resumed[part], whole[part]), part


@pytest.mark.parametrize("rule", rules("resume", distinct=True))
def test_a_run_resumed_in_mid_epoch_equals_one_that_was_not_killed(rule: str, tmp_path: Path):
    assert_goes_on(*resumed_after_a_kill(tmp_path, rule=rule, network=network_for(rule), **RANDOM))


def test_a_probed_and_matched_run_that_is_resumed_is_neither_probed_nor_matched_again(tmp_path: Path):
    options = {"rule": "fwm", "network": "mlp", "probe": HeadProbe(), **RANDOM}
    resumed, whole = resumed_after_a_kill(tmp_path, rule_options={"feedback_scale": "bp"}, **options)
    assert_goes_on(resumed, whole)
    assert "match/residual/overall" in resumed["metrics"]


def test_a_run_resumed_from_the_end_of_an_epoch_equals_one_that_was_not_killed(tmp_path: Path):
    killed_at = STEPS_PER_EPOCH + 1
    assert_goes_on(*resumed_after_a_kill(tmp_path, killed_at, rule="fa_uniform", dropout=0.3), killed_at)
