"""W&B runs, read back by W&B's own tool: whole, one for one config, however often the process was killed."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lit_fa.callbacks import ResumableWandbLogger, WandbRun
from lit_fa.callbacks.wandb_logger import set_aside
from tests.callbacks.wandb_server import KEY, serving
from tests.callbacks.wandb_training import STEPS_PER_EPOCH, WANDB, history, read_back, started
from tests.grids import slow_unless


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    done = started(folder)
    assert done.code == 0, done.said
    assert "W&B run run stays offline: 127.0.0.1 cannot be reached" in done.said
    assert f"upload the W&B run with: wandb sync {folder}/wandb/offline-run-" in done.said
    return folder


def test_an_offline_run_has_config_names_history_media_table_and_exit_code(whole):
    found = read_back(whole)
    run, keys = found["run"][0], {key for record in found["history"] for key in record["item"]}
    assert (run["run_id"], run["run_group"], run["job_type"], run["tags"]) == ("run", "table", "cell", ["rule"])
    assert run["config"]["update"]["rate"] == 0.1
    assert {"commit", "dirty", "versions", "hardware"} <= found["config"][0]["update"].keys()
    assert {"train/loss", "val/accuracy", "test/accuracy", "align/weight/head", "final._type"} <= keys
    files = [file["path"] for record in found["files"] for file in record["files"]]
    assert any(path.startswith("media/images/figures/alignment") for path in files)
    assert any(path.startswith("media/table/final") for path in files)
    assert found["exit"][0].get("exit_code", 0) == 0


def test_histograms_count_every_weight_of_a_layer_and_angles_have_their_own_axis(whole):
    found = read_back(whole)
    first = found["history"][0]["item"]
    assert sum(first["weights/blocks.0.linear.values"]) == 64 * 16
    axes = {record["name"]: record.get("step_metric") for record in found["metric"] if "name" in record}
    assert axes["align/weight/head"] == axes["weights/head"] == "measured/step"
    steps = [row["measured/step"] for row in history(whole) if "align/weight/head" in row]
    assert steps == [epoch * STEPS_PER_EPOCH for epoch in range(4)]


@pytest.mark.parametrize(
    ("every", "killed_at", "resumed_from"),
    slow_unless(lambda *run: run == (1, 18, 15), [(0, 18, 12), (1, 18, 16), (1, 18, 15)]),
    ids=["from an epoch's end", "from a step that is logged", "from one that is not"],
)
def test_a_killed_and_resumed_run_is_one_run_without_a_step_lost_or_doubled(
    whole, tmp_path, every, killed_at, resumed_from
):
    killed = started(tmp_path, kill_at=killed_at, every_n_train_steps=every)
    assert killed.code == -signal.SIGKILL
    checkpoint = f"checkpoints/step={resumed_from}.ckpt"
    assert started(tmp_path, resume=checkpoint, every_n_train_steps=every).code == 0
    rows = history(tmp_path)
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    assert rows == history(whole)


@pytest.mark.slow
def test_the_uploader_sends_a_resumed_run_once_and_passes_by_what_was_replaced(tmp_path):
    assert started(tmp_path, kill_at=14).code == -signal.SIGKILL
    assert started(tmp_path, resume="checkpoints/step=12.ckpt").code == 0
    with serving() as server:
        environment = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "HOME": str(tmp_path)}
        command = [WANDB, "sync", "--yes"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    steps = [row["_step"] for row in server.sent["run"]]
    assert steps == list(range(len(history(tmp_path))))
    assert server.exit_codes == {"run": 0}


def test_with_key_and_network_a_resumed_run_sends_only_what_the_server_lacks(whole, tmp_path):
    assert started(tmp_path, kill_at=18, every_n_train_steps=1).code == -signal.SIGKILL
    with serving(run=15) as server:
        environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        done = started(tmp_path, resume="checkpoints/step=16.ckpt", environment=environment)
    assert done.code == 0, done.said
    assert [row["_step"] for row in server.sent["run"]] == list(range(15, len(history(whole))))


def test_a_key_that_is_none_keeps_the_run_here_and_says_so(tmp_path):
    with serving() as server:
        done = started(tmp_path, environment={"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "secret"})
    assert done.code == 0
    assert "stays offline: the key is refused (WANDB_API_KEY invalid" in done.said
    assert not server.sent
    assert read_back(tmp_path)["history"]


def test_two_ranks_are_one_run(tmp_path):
    done = started(tmp_path, devices=2)
    assert done.code == 0, done.said
    steps = [row["_step"] for row in history(tmp_path)]
    assert steps == list(range(len(steps)))


def test_a_second_run_in_one_process_does_not_write_into_the_first(tmp_path):
    for name in ("first", "second"):
        logger = ResumableWandbLogger(id=name, offline=True, dir=str(tmp_path / name), folder=str(tmp_path))
        (tmp_path / name).mkdir()
        logger.log_metrics({"val/accuracy": 1.0}, step=0)
        logger.finish()
        logger.finish()  # a second time is nothing
        assert len(read_back(tmp_path / name)["history"]) == 1


def test_what_the_user_has_named_stays():
    logger = ResumableWandbLogger(id="mine", group="ours", tags=["a"])
    logger.identify("hash", {"lr": 0.1}, group="table", job_type="cell", tags=["rule"])
    assert (logger.version, logger._wandb_init["group"], logger._wandb_init["tags"]) == ("mine", "ours", ["a"])
    assert logger._wandb_init["job_type"] == "cell"


def test_only_older_files_of_the_same_run_are_set_aside(tmp_path):
    for name in (
        "offline-run-1-abc",
        "offline-run-1-abc-1",
        "offline-run-2-xyz",
        "offline-run-2-abcd",
        "offline-run-3-abc",
    ):
        (tmp_path / name).mkdir()
    set_aside(str(tmp_path / "offline-run-3-abc"), "abc")
    left = {"offline-run-2-xyz", "offline-run-2-abcd", "offline-run-3-abc"}
    left |= {"replaced-offline-run-1-abc", "replaced-offline-run-1-abc-1"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_a_negative_number_of_histograms_is_refused():
    with pytest.raises(ValueError, match="or 0 for none, not -1"):
        WandbRun(histograms=-1)
