"""A rank that is gone, or asked to stop, ends all ranks with one line and a checkpoint from which the run continues."""

import signal
from functools import cache
from pathlib import Path

import pytest

from lit_fa.checkpoints import files
from tests.contract.losing import classifier, declared, federation, run
from tests.gradients import largest_difference

pytestmark = pytest.mark.slow  # several processes for every run

# strategy, ranks, rule; the federation has no rule of its own here
RUNS = [
    ("ddp", 2, "DirectFeedbackAlignment"),
    ("fsdp2", 2, "FeedbackAlignment"),
    ("fsdp2", 3, "DirectFeedbackAlignment"),
    ("fsdp2_file", 2, "FeedbackAlignment"),
    ("layer_parallel", 2, "ForwardForward"),
    ("layer_parallel", 3, "DirectFeedbackAlignment"),
    ("federated", 2, ""),
]
LOST = [(*run, killed) for run in RUNS for killed in (0, run[1] - 1)]


def config(folder: Path, strategy: str, ranks: int, rule: str) -> dict:
    if strategy == "federated":
        return declared(folder, "ddp", ranks, *federation())
    return declared(folder, strategy, ranks, *classifier(rule))


@cache
def unbroken(folder: Path, strategy: str, ranks: int, rule: str) -> dict:
    own = folder / f"unbroken-{strategy}-{ranks}"
    own.mkdir()
    assert run(own, config(own, strategy, ranks, rule)) == [0] * ranks
    return files.read(own / "end.ckpt")


def check_resumes(folder: Path, checkpoint: Path, whole: dict, *case) -> None:
    """The run continues to the weights and the optimiser's state of an unbroken one."""
    assert run(folder, config(folder, *case), "", 0, "--ckpt_path", str(checkpoint)) == [0] * case[1]
    resumed = files.read(folder / "end.ckpt")
    assert resumed["global_step"] == whole["global_step"]
    assert largest_difference(resumed["state_dict"], whole["state_dict"]) < 1e-6  # of what the ranks add in float32
    states = (r["optimizer_states"][0]["state"] for r in (resumed, whole))
    for own, other in zip(*(s.values() for s in states), strict=True):
        assert largest_difference(own, other) < 1e-6


def lines(folder: Path, rank: int) -> list[str]:
    said = (folder / f"said.{rank}").read_text(encoding="utf-8")
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("lit-fa: ")]


@pytest.mark.parametrize(("strategy", "ranks", "rule", "killed"), LOST)
def test_a_killed_rank_ends_the_others_with_one_line_and_the_run_continues(
    strategy: str, ranks: int, rule: str, killed: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    case = (strategy, ranks, rule)
    codes = run(tmp_path, config(tmp_path, *case), str(killed), signal.SIGKILL)
    assert codes == [-signal.SIGKILL if rank == killed else 2 for rank in range(ranks)]
    for rank in range(ranks):
        if rank != killed:
            (line,) = lines(tmp_path, rank)
            assert "another rank of this run is gone; the last checkpoint stays usable" in line
    kept = tmp_path / "kept.ckpt"
    assert files.read(kept)["global_step"] == 3
    check_resumes(tmp_path, kept, unbroken(tmp_path_factory.getbasetemp(), *case), *case)


@pytest.mark.parametrize("asked", ["last", "all"])
@pytest.mark.parametrize(("strategy", "ranks", "rule"), RUNS)
def test_sigterm_stops_all_ranks_after_one_step_with_a_checkpoint(
    strategy: str, ranks: int, rule: str, asked: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    case, every = (strategy, ranks, rule), [str(rank) for rank in range(ranks)]
    names = every if asked == "all" else every[-1:]
    codes = run(tmp_path, config(tmp_path, *case), ",".join(names), signal.SIGTERM)
    assert codes == [128 + signal.SIGTERM, *[0] * (ranks - 1)]
    assert all(not lines(tmp_path, rank) for rank in range(ranks))
    kept = tmp_path / "interrupted.ckpt"
    # the stages of one network learn of a signal some batches later, so that none waits for another at every step
    late = ranks if strategy == "layer_parallel" else 0
    step = files.read(kept)["global_step"]
    assert step == 5 + late
    said = (tmp_path / "said.0").read_text(encoding="utf-8")
    assert said.count(f"interrupted after step {step}; go on with") == 1
    check_resumes(tmp_path, kept, unbroken(tmp_path_factory.getbasetemp(), *case), *case)


@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp2_file"])
def test_an_optimiser_without_state_resumes(strategy: str, tmp_path: Path):
    plain = declared(tmp_path, strategy, 2, *classifier("FeedbackAlignment", momentum=0.0))
    assert run(tmp_path, plain) == [0, 0]
    whole = files.read(tmp_path / "end.ckpt")
    assert whole["optimizer_states"][0]["state"] == {}
    assert run(tmp_path, plain, "1", signal.SIGKILL) == [2, -signal.SIGKILL]
    assert run(tmp_path, plain, "", 0, "--ckpt_path", str(tmp_path / "kept.ckpt")) == [0, 0]
    assert largest_difference(files.read(tmp_path / "end.ckpt")["state_dict"], whole["state_dict"]) == 0
