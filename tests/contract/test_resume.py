"""A run that was killed and resumed is, bit for bit, the run that was not."""

from pathlib import Path

import pytest
import torch

from lit_fa.modules import HeadProbe
from tests.contract.training import record

STEPS_PER_EPOCH, KILLED_AT = 5, 7  # in the middle of the second of three epochs


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return all(map(same, a, b)) and len(a) == len(b) if isinstance(a, list) else a == b


def resumed_after_a_kill(folder: Path, killed_at: int = KILLED_AT, **options: object) -> tuple[dict, dict]:
    """(record of the run from the checkpoint, record of the run without interruption)."""
    record(folder / "killed", kill_at=killed_at, **options)
    # a kill may come between two checkpoints: go on from the one before, which repeats a step
    checkpoint = folder / "killed" / f"step={killed_at - 1}.ckpt"
    whole = record(folder / "whole", **options)
    # another global seed: nothing that matters may come from it
    return record(folder / "resumed", resume=str(checkpoint), seed=5, **options), whole


@pytest.mark.parametrize(
    "rule",
    [
        "backprop",
        "fa_uniform",
        "sign_brsf",
        "kolen_pollack",
        "weight_mirror",
        "adaptive_mixture",
        "dfa_dense",
        "predsim",
        "auglocal",
    ],
)
def test_a_run_resumed_in_mid_epoch_equals_one_that_was_not_killed(rule: str, tmp_path: Path):
    resumed, whole = resumed_after_a_kill(tmp_path, rule=rule, dropout=0.3, augment="crop_flip")
    assert same(resumed["losses"], whole["losses"][KILLED_AT - 1 :])
    assert same(resumed["state"], whole["state"])
    assert same(resumed["optimizer"], whole["optimizer"])
    assert same(resumed["metrics"], whole["metrics"])


def test_a_probed_and_matched_run_that_is_resumed_is_neither_probed_nor_matched_again(tmp_path: Path):
    options = {"rule": "fwm", "network": "mlp", "probe": HeadProbe(), "dropout": 0.3, "augment": "crop_flip"}
    resumed, whole = resumed_after_a_kill(tmp_path, rule_options={"feedback_scale": "bp"}, **options)
    assert same(resumed["losses"], whole["losses"][KILLED_AT - 1 :])
    assert same(resumed["state"], whole["state"])
    assert same(resumed["metrics"], whole["metrics"])
    assert "match/residual/overall" in resumed["metrics"]


def test_a_run_resumed_from_the_end_of_an_epoch_equals_one_that_was_not_killed(tmp_path: Path):
    resumed, whole = resumed_after_a_kill(tmp_path, STEPS_PER_EPOCH + 1, rule="fa_uniform", dropout=0.3)
    assert same(resumed["losses"], whole["losses"][STEPS_PER_EPOCH:])
    assert same(resumed["state"], whole["state"])
    assert same(resumed["metrics"], whole["metrics"])
