"""Ranks share the clients of a round; a run that was killed goes on with the very next one."""

import signal
from pathlib import Path

import pytest
import torch

from lit_fa.modules.distributed import share_of
from tests.federated.federation import largest_difference
from tests.federated.running import record, train
from tests.grids import slow_unless

RUNS = [
    ("backprop", "FedAvg"), ("flfa", "FedAvg"), ("ff", "FedNova"), ("backprop", "Scaffold"), ("backprop", "Moon"),
    ("ff", "FedDyn"),
]  # fmt: skip


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


QUICK = [("backprop", "Moon"), ("flfa", "FedAvg"), ("ff", "FedNova"), ("backprop", "Scaffold")]


@pytest.mark.parametrize(("rule", "algorithm"), slow_unless(lambda *run: run in QUICK, RUNS))
def test_two_ranks_give_the_weights_of_one(rule: str, algorithm: str, tmp_path: Path):
    one = record(tmp_path / "one", rule=rule, algorithm=algorithm)
    two = record(tmp_path / "two", rule=rule, algorithm=algorithm, devices=2)
    assert largest_difference(two["state"], one["state"]) < 1e-12
    assert largest_difference(two["metrics"], one["metrics"]) < 1e-4  # Lightning's sums over ranks are float32
    assert same(two["ranks"][0]["state"], two["ranks"][1]["state"])
    assert [s["chosen"] for s in one["selections"]] == [s["chosen"] for s in two["ranks"][1]["selections"]]
    assert {*one["states"]} == {*two["ranks"][1]["states"]}  # every rank knows every client
    for client, state in one["states"].items():
        assert largest_difference(two["ranks"][1]["states"][client], state) < 1e-12


@pytest.mark.parametrize("executor", ["auto", "stacked"])
def test_a_rank_without_a_client_takes_part(executor: str, tmp_path: Path):
    options = {"rule": "backprop", "algorithm": "FedAvg", "sampled": 1, "executor": executor, "dropout": 0.0}
    two = record(tmp_path / "two", devices=2, **options)
    chosen = two["executed_by"]["executor"]  # the bits depend on it, and the time of a trial decides it
    one = record(tmp_path / "one", **{**options, "executor": chosen})
    assert largest_difference(two["state"], one["state"]) < 1e-12
    assert two["ranks"][1]["executed_by"] == two["executed_by"]


@pytest.mark.parametrize(("rule", "algorithm"), [("backprop", "Scaffold"), ("flfa", "FedAvg")])
def test_a_rank_without_a_client_takes_part_in_what_surrounds_the_round(rule: str, algorithm: str, tmp_path: Path):
    # clients' states are gathered, layers are chosen by comparing all clients, and a callback measures each round
    options = {"rule": rule, "algorithm": algorithm, "sampled": 1, "measured": True}
    one, two = record(tmp_path / "one", **options), record(tmp_path / "two", devices=2, **options)
    assert largest_difference(two["state"], one["state"]) < 1e-12


KILLED = [("backprop", "Scaffold", 3), ("ff", "FedAvg", 4), ("backprop", "Moon", 4), ("flfa", "FedNova", 3)]


@pytest.mark.parametrize(  # killed in the middle of an epoch of two rounds, and at its end
    ("rule", "algorithm", "killed_at"),
    slow_unless(lambda *run: run in KILLED[:2], [(rule, name, at) for rule, name, _ in KILLED for at in (3, 4)]),
)
def test_a_resumed_run_draws_the_same_clients_and_ends_bit_for_bit(
    rule: str, algorithm: str, killed_at: int, tmp_path: Path
):
    options = {"rule": rule, "algorithm": algorithm}
    assert record(tmp_path / "killed", kill_at=killed_at, **options)["codes"] == [-signal.SIGKILL]
    checkpoint = tmp_path / "killed" / f"step={killed_at - 1}.ckpt"  # the kill came before its own round's
    whole = record(tmp_path / "whole", **options)
    resumed = record(tmp_path / "resumed", resume=str(checkpoint), **options)
    assert resumed["clients"] == whole["clients"][killed_at - 1 :]
    assert resumed["losses"] == whole["losses"][killed_at - 1 :]
    assert all(same(resumed[key], whole[key]) for key in ("state", "server", "states", "selections"))


@pytest.mark.parametrize(
    ("rule", "algorithm", "options"),
    [("flfa", "FedAvg", {}), ("backprop", "Scaffold", {"scheduler": "plateau"}), ("ff", "FedDyn", {})],
)
def test_a_run_resumed_after_every_round_equals_one_that_was_not_killed(
    rule: str, algorithm: str, options: dict, tmp_path: Path
):
    def run(name: str, **more: object) -> dict:
        (tmp_path / name).mkdir()
        own = {
            "rule": rule,
            "algorithm": algorithm,
            "folder": str(tmp_path / name),
            "out": str(tmp_path / name / "out"),
        }
        train({**own, **options, **more})
        return torch.load(tmp_path / name / "out.0", weights_only=False)

    whole, resume, losses, rows = run("whole"), None, [], {}
    for rounds in range(1, 7):  # two make an epoch: the last rounds of epochs and of the run are among them
        part = run(f"until {rounds}", keep_after=rounds, resume=resume)
        losses, rows, resume = (
            losses + part["losses"],
            rows | of_epochs(part),
            str(tmp_path / f"until {rounds}" / "kept.ckpt"),
        )
    resumed = run("resumed", resume=resume)
    assert losses == whole["losses"]
    assert rows | of_epochs(resumed) == of_epochs(whole)
    assert ("select/similarity/3" in resumed["metrics"]) == (rule == "flfa")
    for key in ("state", "server", "states", "selections", "optimizer", "metrics", "curves"):
        assert same(resumed[key], whole[key]), key


def of_epochs(run: dict) -> dict:
    return {where: value for where, value in run["rows"].items() if where[1].startswith("val/")}


def test_a_lost_rank_is_one_clear_line_and_leaves_a_checkpoint_to_go_on_from(tmp_path: Path):
    options = {"rule": "backprop", "algorithm": "FedAvg"}
    codes = record(tmp_path / "lost", devices=2, kill_at=3, kill_rank=1, **options)["codes"]
    assert codes == [2, -signal.SIGKILL]
    error = (tmp_path / "lost" / "record.error.0").read_text()
    assert error.startswith("LostRankError: another rank of this run is gone")
    assert "\n" not in error
    whole = record(tmp_path / "whole", **options)
    resumed = record(tmp_path / "resumed", resume=str(tmp_path / "lost" / "step=2.ckpt"), **options)
    assert resumed["clients"] == whole["clients"][2:]
    assert largest_difference(resumed["state"], whole["state"]) < 1e-12  # two of its rounds were two ranks'


def test_ranks_share_the_steps_evenly_and_leave_out_no_client():
    steps = [9, 1, 1, 7, 3, 3]
    shares = [share_of(steps, rank, 3) for rank in range(3)]
    assert sorted(lane for share in shares for lane in share) == [*range(6)]
    assert [sum(steps[lane] for lane in share) for share in shares] == [9, 8, 7]
