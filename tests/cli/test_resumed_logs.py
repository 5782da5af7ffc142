"""A killed and resumed run has one log, with every row once, whatever the logger."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.forked import lit_fa, run_recorded
from tests.cli.test_command_line import RUN

STEPS = 12  # of an epoch
KILL = "tests.cli.forked.Kill"
SAVE = "lightning.pytorch.callbacks.ModelCheckpoint"


def config_in(folder: Path, **trainer: object) -> str:
    """A run of three epochs that is killed in its second, and saves every third step; the path of its config."""
    folder.mkdir(exist_ok=True)
    keep = {"dirpath": "kept", "filename": "{step}", "save_top_k": -1, "every_n_train_steps": 3}
    callbacks = [{"class_path": KILL, "init_args": {"at": 20}}, {"class_path": SAVE, "init_args": keep}]
    changed = {"max_epochs": 3, "log_every_n_steps": 2, "callbacks": callbacks, "enable_checkpointing": True}
    trainer = RUN["trainer"] | changed | trainer
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN | {"trainer": trainer}), encoding="utf-8")
    return "run.yaml"


def whole(folder: Path, *words: str) -> Path:
    """The folder of a run that nothing interrupts."""
    config = config_in(folder)
    (folder / "spared").touch()
    assert lit_fa(folder, "fit", "--config", config, *words).code == 0
    return folder


def killed_and_resumed(folder: Path, *words: str, step: int) -> None:
    config = config_in(folder)
    assert lit_fa(folder, "fit", "--config", config, *words).code == -signal.SIGKILL
    (folder / "spared").touch()
    done = lit_fa(folder, "fit", "--config", config, *words, "--ckpt_path", f"kept/step={step}.ckpt")
    assert done.code == 0, done.said


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the only version."""
    (version,) = (folder / "lightning_logs").iterdir()
    with (version / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag to the points of the only version, as TensorBoard itself reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (version,) = (folder / "lightning_logs").iterdir()
    events = accumulator.EventAccumulator(str(version), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


# one, at and after a step that is logged, and at an epoch's end
@pytest.mark.parametrize(
    "step", [pytest.param(15, marks=pytest.mark.slow), 18, pytest.param(12, marks=pytest.mark.slow)]
)
def test_csv_has_every_row_once(tmp_path, step):
    whole(tmp_path / "whole", "--logger", "csv")
    killed_and_resumed(tmp_path / "killed", "--logger", "csv", step=step)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


@pytest.mark.parametrize(
    "step", [15, pytest.param(18, marks=pytest.mark.slow), pytest.param(12, marks=pytest.mark.slow)]
)
def test_tensorboard_has_every_point_once(tmp_path, step):
    pytest.importorskip("tensorboard")
    whole(tmp_path / "whole", "--logger", "tensorboard")
    killed_and_resumed(tmp_path / "killed", "--logger", "tensorboard", step=step)
    assert points(tmp_path / "killed") == points(tmp_path / "whole")


TRACKIO = """
import json
from trackio import Api
from trackio.sqlite_storage import SQLiteStorage
run, = Api().runs("lit-fa")
rows = SQLiteStorage.get_logs("lit-fa", run.name)
print(json.dumps([run.name, run.config["model"]["class_path"], rows]))
"""


def trackio_rows(folder: Path) -> list:
    """Name and class of the only run in the database of a folder, and its rows without times and pictures."""
    environment = {"TRACKIO_DIR": str(folder / "trackio"), "PYTHONPATH": ":".join(sys.path)}
    read = subprocess.run([sys.executable, "-c", TRACKIO], env=environment, capture_output=True, text=True, check=True)
    name, kind, rows = json.loads(read.stdout.splitlines()[-1])
    return [name, kind, [{k: v for k, v in row.items() if k != "timestamp" and "figures/" not in k} for row in rows]]


@pytest.mark.slow
def test_trackio_has_one_run_with_every_row_once(tmp_path):
    pytest.importorskip("trackio")
    folders = (tmp_path / "whole", tmp_path / "killed")
    for folder in folders:
        here = {"TRACKIO_DIR": str(folder / "trackio")}
        words = ("fit", "--config", config_in(folder), "--logger", "trackio")
        if folder.name == "killed":
            assert lit_fa(folder, *words, environment=here).code == -signal.SIGKILL
            words = (*words, "--ckpt_path", "kept/step=15.ckpt")
        (folder / "spared").touch()
        done = lit_fa(folder, *words, environment=here)
        assert done.code == 0, done.said
    assert "with: trackio show --project lit-fa" in done.said
    assert trackio_rows(folders[1]) == trackio_rows(folders[0])
    assert {"train/loss", "val/accuracy"} <= {key for row in trackio_rows(folders[1])[2] for key in row}


@pytest.mark.slow
def test_what_a_resumed_log_leaves_out_is_kept_beside_it(tmp_path):
    killed_and_resumed(tmp_path, "--logger", "csv", step=15)
    before = rows(tmp_path)
    words = ("fit", "--config", "run.yaml", "--logger", "csv", "--ckpt_path", "kept/step=3.ckpt")
    assert lit_fa(tmp_path, *words).code == 0
    (version,) = (tmp_path / "lightning_logs").iterdir()
    with (version / "replaced-metrics.csv").open(encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == before
    assert rows(tmp_path) == before


@pytest.mark.slow
def test_a_log_in_another_folder_begins_anew_and_says_where_the_other_is(tmp_path):
    killed_and_resumed(tmp_path / "a", "--logger", "csv", step=15)
    config = config_in(tmp_path / "b", max_epochs=2)
    words = ("fit", "--config", config, "--logger", "csv", "--ckpt_path", str(tmp_path / "a/kept/step=15.ckpt"))
    done = lit_fa(tmp_path / "b", *words)
    assert done.code == -signal.SIGKILL
    assert f"the log before this checkpoint is in {tmp_path}/a/lightning_logs/version_0" in done.said
    assert len(rows(tmp_path / "a")) > 12


def test_a_refused_checkpoint_leaves_the_log_as_it_was(tmp_path):
    killed_and_resumed(tmp_path, "--logger", "csv", step=15)
    before = rows(tmp_path)
    other = ("--model.init_args.rule", "Backprop", "--ckpt_path", "kept/step=15.ckpt")
    done = lit_fa(tmp_path, "fit", "--config", "run.yaml", "--logger", "csv", *other)
    assert done.code == 2
    assert "the checkpoint is of another rule" in done.said
    assert rows(tmp_path) == before


@pytest.mark.slow
def test_a_test_of_a_checkpoint_does_not_touch_the_log_of_its_run(tmp_path):
    whole(tmp_path, "--logger", "csv")
    (log,) = (tmp_path / "lightning_logs").glob("*/metrics.csv")
    before = log.read_text()
    words = ("test", "--config", "run.yaml", "--logger", "csv", "--ckpt_path", "kept/step=15.ckpt")
    assert lit_fa(tmp_path, *words).code == 0
    assert log.read_text() == before


@pytest.mark.slow
def test_a_run_of_a_table_goes_on_in_its_own_log(tmp_path):
    config = RUN | {"trainer": RUN["trainer"] | {"max_epochs": 3, "log_every_n_steps": 2, "logger": "csv"}}
    kill = [{"class_path": KILL, "init_args": {"at": 20}}]
    logs = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        record = {"id": "abc", "path": str(tmp_path / name / "abc.json")}
        if name == "killed":
            killed = config | {"trainer": config["trainer"] | {"callbacks": kill}}
            assert run_recorded(tmp_path / name, killed, record).code == -signal.SIGKILL
        assert run_recorded(tmp_path / name, config, record).code == 0
        (log,) = (tmp_path / name).rglob("metrics.csv")
        with log.open(encoding="utf-8") as file:
            logs.append(list(csv.DictReader(file)))
    assert logs[1] == logs[0]
    assert logs[1][-1]["test/accuracy"]
