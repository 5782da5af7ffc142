"""Two processes that share a batch learn what one process learns from it."""

from pathlib import Path

import pytest
import torch

from lit_fa.modules import HeadProbe
from lit_fa.rules import Does
from tests.cases import OWN_STATE, RULES, rules
from tests.contract.training import network_for, record
from tests.gradients import largest_difference

SHORT = {"n_train": 21, "epochs": 2, "save_every": 100}  # batches of 8, 8 and 5, no checkpoint on the way


@pytest.mark.parametrize("rule", rules("two_ranks", distinct=True, thin=True, more=OWN_STATE))
def test_two_ranks_equal_one(rule: str, tmp_path: Path):
    options = {"rule": rule, "network": network_for(rule), **SHORT}
    one = record(tmp_path / "one", **options)
    two = record(tmp_path / "two", devices=2, **options)
    assert [rank["world_size"] for rank in two["ranks"]] == [2, 2]
    assert two["ranks"][0]["losses"] != two["ranks"][1]["losses"]  # each saw its own half
    # float64: the mean of two halves' means is the whole's mean up to rounding
    part = "predictions" if Does.RESHAPES in RULES[rule][0]().does else "state"  # ranks take nothing away until export
    assert largest_difference(two[part], one[part]) < 1e-12
    # Lightning's metrics are float32
    assert largest_difference(two["metrics"], one["metrics"]) < 1e-5
    # feedback that a rank drew for itself would differ here
    assert largest_difference(two["ranks"][0]["state"], two["ranks"][1]["state"]) == 0


def test_two_ranks_that_accumulate_and_clip_equal_one(tmp_path: Path):
    # two windows: 8 and 8 samples, then 8 and 5
    options = {"rule": "fa_uniform", "epochs": 2, "accumulate": 2, "clip": 0.3, "n_train": 29}
    one = record(tmp_path / "one", **options)
    two = record(tmp_path / "two", devices=2, **options)
    assert largest_difference(two["state"], one["state"]) < 1e-12


def test_two_ranks_probe_and_match_as_one(tmp_path: Path):
    options = {"rule": "fwm", "network": "mlp", "epochs": 1, "probe": HeadProbe(optimizer="sgd", lr=0.1), "n_train": 17}
    one = record(tmp_path / "one", **options)
    two = record(tmp_path / "two", devices=2, **options)
    # fifty sweeps of least squares make more of the rounding than a step does
    assert largest_difference(two["state"], one["state"]) < 1e-9
    assert largest_difference(two["ranks"][0]["state"], two["ranks"][1]["state"]) == 0


def test_two_ranks_agree_where_each_would_scale_feedback_by_its_own_batch(tmp_path: Path):
    options = {"rule": "fwm", "network": "mlp", "epochs": 1, "rule_options": {"feedback_scale": "bp"}}
    ranks = record(tmp_path, devices=2, **options)["ranks"]
    assert largest_difference(ranks[0]["state"], ranks[1]["state"]) == 0
    assert largest_difference(ranks[0]["metrics"], ranks[1]["metrics"]) == 0


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_rank_without_a_share_of_the_last_batch_takes_part(accumulate: int, tmp_path: Path):
    options = {"rule": "fa_uniform", "epochs": 2, "n_train": 17, "accumulate": accumulate, "measured": True}
    one = record(tmp_path / "one", **options)
    two = record(tmp_path / "two", devices=2, **options)
    assert largest_difference(two["state"], one["state"]) < 1e-12
    assert largest_difference(two["metrics"], one["metrics"]) < 1e-5
    curves, again = (
        {key: torch.tensor([v for *_, v in curve]).nan_to_num() for key, curve in run["curves"].items()}
        for run in (one, two)
    )
    assert largest_difference(curves, again) < 1e-5  # callbacks measure on what one process would
