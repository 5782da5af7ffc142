"""Loggers by name, and a run that is interrupted and goes on."""

import os
import re
import shlex
import signal
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import yaml

from lit_fa import experiment
from lit_fa.__main__ import main
from lit_fa.callbacks import RoundProgress
from lit_fa.loggers import names
from tests.callbacks.wandb_training import history, read_back
from tests.cli.test_command_line import RUN


class Press(L.Callback):
    """Ctrl-C, or another signal, in the middle of a step."""

    at, signum = 0, signal.SIGINT

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == Press.at:
            os.kill(os.getpid(), Press.signum)


@pytest.fixture(autouse=True)
def _ctrl_c_as_before():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored after an interruption


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The path of a run of three epochs, twelve steps each, in a folder of its own; W&B stays here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(Press, "at", -1)
    trainer = RUN["trainer"] | {"max_epochs": 3, "log_every_n_steps": 3, "callbacks": [f"{__name__}.Press"]}
    Path("run.yaml").write_text(yaml.safe_dump(RUN | {"trainer": trainer}), encoding="utf-8")
    return "run.yaml"


def test_each_logger_has_a_name(config):
    assert main(["fit", "--config", config, "--logger", "csv"]) == 0
    assert Path("lightning_logs/version_0/metrics.csv").is_file()
    assert main(["fit", "--config", config, "--logger", "none"]) == 0
    assert not Path("lightning_logs/version_1").exists()
    pytest.importorskip("tensorboard")
    assert main(["fit", "--config", config, "--logger=tensorboard"]) == 0
    assert list(Path("lightning_logs/version_1").glob("events.*"))


def test_the_same_config_is_the_same_run_and_another_is_another(config):
    for rate in ("0.1", "0.1", "0.2"):
        flags = ["--logger", "wandb", "--model.init_args.optimizer.init_args.lr", rate, "--trainer.max_epochs", "1"]
        assert main(["fit", "--config", config, *flags]) == 0
    kept, replaced = (sorted(Path("wandb").glob(f"{kind}-run-*")) for kind in ("offline", "replaced-offline"))
    assert (len(kept), len(replaced)) == (2, 1)
    assert {path.name for path in Path("lightning_logs").iterdir()} == {path.name.split("-")[3] for path in kept}


@pytest.mark.parametrize(
    ("at", "signum"),
    [pytest.param(16, signal.SIGTERM, marks=pytest.mark.slow), (23, signal.SIGINT)],
    ids=["SIGTERM in mid-epoch", "Ctrl-C in an epoch's last step"],
)
def test_an_interrupted_run_says_how_it_goes_on_and_loses_nothing(config, capsys, monkeypatch, at, signum):
    monkeypatch.setattr(Press, "at", at)
    monkeypatch.setattr(Press, "signum", signum)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", config, "--logger", "wandb"])
    assert stop.value.code == 128 + signum
    said = re.search(rf"interrupted after step {at + 1}; go on with: lit-fa (.*)", capsys.readouterr().out)
    assert read_back(Path())["exit"][0]["exit_code"] == 128 + signum
    Press.at = -1
    assert main(shlex.split(said[1])) == 0
    resumed = history(Path())
    Path("whole").mkdir()
    monkeypatch.chdir("whole")
    assert main(["fit", "--config", "../run.yaml", "--logger", "wandb"]) == 0
    assert resumed == history(Path())


def test_a_cell_of_a_table_is_a_run_of_its_group(config, tmp_path):
    run = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    run["trainer"] |= {"max_epochs": 1, "logger": "wandb", "callbacks": []}
    head = {"id": "abc123", "table": "t1", "row": "FA", "column": "w8", "seed": 0, "scale": "cpu"}
    experiment.run(run, head | {"path": str(tmp_path / "r.json")})
    first = read_back(tmp_path)["run"][0]
    assert (first["run_id"], first["run_group"], first["job_type"]) == ("abc123", "t1", "FA, w8")
    assert first["tags"][:3] == ["FeedbackAlignment", "Digits", "cpu"]
    assert any("test/accuracy" in row for row in history(tmp_path))


def test_tags_name_the_data_inside_a_federation():
    inner = {"class_path": "datamodules.Digits"}
    data = {"class_path": "datamodules.Federated", "init_args": {"data": inner}}
    assert names({"model": {"class_path": "Classifier"}, "data": data}, {})["tags"][:2] == ["Backprop", "Digits"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--logger", "wandbb"], "unknown logger 'wandbb'; nearest: wandb"),
        (["--logger"], "--logger needs a name: csv, tensorboard, wandb, trackio, none"),
    ],
)
def test_a_wrong_logger_is_one_line(config, capsys, flags, said):
    assert main(["fit", "--config", config, *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_federation_has_one_bar_of_rounds(config, monkeypatch):
    seen = []
    monkeypatch.setattr("lit_fa.config.console.get_console", lambda: SimpleNamespace(is_interactive=True))
    monkeypatch.setattr(RoundProgress, "on_train_end", lambda self, *_: seen.extend(self.bar.tasks))
    run = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    run["model"]["class_path"] = "FederatedClassifier"
    run["model"]["init_args"].pop("optimizer")
    run["data"] = {
        "class_path": "Federated",
        "init_args": {"data": run["data"], "clients": 3, "clients_per_round": 2, "batch_size": 64},
    }
    run["trainer"] |= {"enable_progress_bar": True, "callbacks": []}
    Path(config).write_text(yaml.safe_dump(run), encoding="utf-8")
    assert main(["fit", "--config", config]) == 0
    assert [(task.completed, task.total) for task in seen] == [(3, 3)]
