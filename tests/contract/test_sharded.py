"""Two ranks that divide parameters and feedback (strategy fsdp2) learn what one process learns."""

from functools import cache
from pathlib import Path

import pytest
import torch

from lit_fa.checkpoints import files, sharded
from lit_fa.errors import UserError
from lit_fa.layers.sharding import units
from lit_fa.modules import Classifier
from tests.cases import FIRST, OWN_STATE, RULES, rules
from tests.contract.sharded import MEASURED, learn, learner_of, wide
from tests.contract.training import ranks, record
from tests.gradients import largest_difference

SHORT = {"rule": "fa_uniform", "epochs": 2, "n_train": 29, "accumulate": 2, "clip": 0.3}
QUICK = FIRST | OWN_STATE


@cache
def of_two_ranks(quick: bool, folder: Path) -> list[dict]:
    """Every rule of its group, by two ranks: one call, because the processes are the costly part."""
    names = [name for name in RULES if (name in QUICK) == quick]
    ranks(2).train({"call": ("tests.contract.sharded.sharded", (names, str(folder / f"{quick}")))})
    return [torch.load(folder / f"{quick}.{rank}") for rank in range(2)]


@pytest.mark.parametrize("rule", rules("two_ranks", thin=True, more=OWN_STATE))
def test_two_sharded_ranks_equal_one(rule: str, tmp_path_factory: pytest.TempPathFactory):
    two, _ = of_two_ranks(rule in QUICK, tmp_path_factory.getbasetemp())
    # float64: the mean of two halves' means is the whole's mean up to rounding
    assert largest_difference(two["states"][rule], learn(learner_of(rule))) < 1e-12


@pytest.mark.parametrize("rule", MEASURED)
def test_a_rank_has_half_of_parameters_and_feedback(rule: str, tmp_path_factory: pytest.TempPathFactory):
    shares = [rank["shares"][rule] for rank in of_two_ranks(True, tmp_path_factory.getbasetemp())]
    assert max(shares) <= 0.55
    assert sum(shares) >= 1


def test_every_block_with_weights_is_a_unit():
    learner = wide("fa_uniform")
    assert units(learner) == [learner.network[i] for i in (1, 3, 5)]


def test_a_block_with_a_shared_weight_is_left_to_the_root():
    learner = wide("backprop")
    learner.network[5].bias = learner.network[1].bias
    assert units(learner) == [learner.network[3]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """One process, two sharded ranks with a checkpoint within a window, and runs that continue from it."""
    folder = tmp_path_factory.mktemp("sharded")
    runs: dict[str, dict] = {"folder": folder}
    two = {"devices": 2, "strategy": "fsdp2", "keep_after": 3}
    runs["one"] = record(folder / "one", **SHORT, keep_after=3)
    runs["sharded"] = record(folder / "sharded", **SHORT, **two)
    for name, options, start in (
        ("resumed", two, "sharded"),
        ("of a file", two, "one"),
        ("in one process", {}, "sharded"),
    ):
        runs[name] = record(folder / name, **SHORT, **options, resume=str(folder / start / "kept.ckpt"))
    return runs


def test_a_sharded_run_equals_one_process(runs: dict):
    assert largest_difference(runs["sharded"]["state"], runs["one"]["state"]) < 1e-12
    assert largest_difference(runs["sharded"]["metrics"], runs["one"]["metrics"]) < 1e-5


def test_a_sharded_run_resumes_within_a_window_bit_for_bit(runs: dict):
    assert largest_difference(runs["resumed"]["state"], runs["sharded"]["state"]) == 0
    assert all(
        largest_difference(runs["resumed"]["optimizer"]["state"][i], state) == 0
        for i, state in runs["sharded"]["optimizer"]["state"].items()
    )


def test_a_checkpoint_goes_from_a_file_to_ranks_and_back(runs: dict):
    assert largest_difference(runs["of a file"]["state"], runs["one"]["state"]) < 1e-12
    assert largest_difference(runs["in one process"]["state"], runs["one"]["state"]) < 1e-12


def test_a_sharded_checkpoint_becomes_the_ordinary_one(runs: dict, tmp_path: Path):
    folder, ordinary = (runs["folder"] / name / "kept.ckpt" for name in ("sharded", "one"))
    sharded.merge(folder, tmp_path / "merged.ckpt")
    merged, one = files.read(tmp_path / "merged.ckpt"), files.read(ordinary)
    assert merged.keys() == one.keys()
    assert list(merged["state_dict"]) == list(one["state_dict"])
    assert largest_difference(merged["state_dict"], one["state_dict"]) < 1e-12
    assert merged["optimizer_states"][0]["param_groups"] == one["optimizer_states"][0]["param_groups"]


def test_a_module_loads_from_the_folder(runs: dict):
    network = runs["folder"] / "sharded" / "kept.ckpt"
    with pytest.raises(UserError, match="network="):
        Classifier.load_from_checkpoint(network)


def test_ordinary_files_of_a_sharded_run(runs: dict, tmp_path: Path):
    two = {"devices": 2, "strategy": "fsdp2_file", "keep_after": 3}
    whole = record(tmp_path / "whole", **SHORT, **two)
    assert largest_difference(whole["state"], runs["sharded"]["state"]) == 0
    again = record(tmp_path / "again", **SHORT, **two, resume=str(tmp_path / "whole" / "kept.ckpt"))
    assert (tmp_path / "whole" / "kept.ckpt").is_file()
    assert largest_difference(again["state"], whole["state"]) == 0


@pytest.mark.parametrize("damage", ["missing", "torn", "mixed"])
def test_a_damaged_folder_is_refused_in_one_line(damage: str, tmp_path: Path):
    folder = tmp_path / "x.ckpt"
    for rank in range(2):
        rows = {"state_dict": ["w"], "optimizer_states": []}
        content = {"state_dict": {"w": torch.ones(2)}, sharded.SHARDS: rows}
        files.save(content, folder / sharded.file_name(rank, 2))
    second = folder / sharded.file_name(1, 2)
    if damage == "missing":
        second.unlink()
    elif damage == "torn":
        second.write_bytes(second.read_bytes()[:-40])
    else:
        files.save({"state_dict": {}, sharded.SHARDS: {}}, second)
    with pytest.raises(files.UnreadableError) as told:
        files.read(folder)
    assert "\n" not in str(told.value)
