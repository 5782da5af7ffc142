"""A fit leaves a record in its folder, which has the name that the user gave it."""

import json
from pathlib import Path

import pytest
import yaml

from lit_fa.__main__ import main
from lit_fa.config.run_folder import check_name, check_unused
from lit_fa.errors import UserError
from lit_fa.results.frames import frame
from tests.cli.test_console import RUN, said


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    trainer = RUN["trainer"] | {"enable_checkpointing": True, "enable_progress_bar": False}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN | {"trainer": trainer}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*words: str) -> int:
    return main(["fit", "--config", "run.yaml", *words])


def record(path: str) -> dict:
    return json.loads((Path(path) / "record.json").read_text())


def refusal(capsys, *words: str) -> str:
    assert fit(*words) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_fit_leaves_a_record_that_says_it_is_of_no_table(capsys):
    assert fit() == 0
    data = record("lightning_logs/version_0")
    assert [data[key] for key in ("paper", "table", "row", "column", "scale")] == [None] * 5
    assert (data["status"], data["seed"], data["schema"]) == ("finished", 0, 2)
    assert data["config"]["model"]["class_path"] == "lit_fa.Classifier"
    assert len(data["curves"]["val/accuracy"]) == 2
    assert set(frame("lightning_logs/version_0/record.json")["seed"]) == {0}


def test_the_id_is_that_of_the_config_whatever_the_name_of_the_run():
    for words in (
        (),
        ("--name", "a"),
        ("--name", "b", "--logger", "csv"),
        ("--trainer.logger", "false", "--name", "c"),
    ):
        assert fit(*words) == 0
    assert len({record(f"lightning_logs/{name}")["id"] for name in ("version_0", "a", "b", "c")}) == 1
    assert fit("--name", "d", "--seed_everything", "1") == 0
    assert record("lightning_logs/d")["id"] != record("lightning_logs/a")["id"]


def test_the_name_is_that_of_the_folder_and_is_listed(capsys):
    assert said(capsys, "fit", "--config", "run.yaml", "--name", "lr-0.1")[-1].endswith(
        "lit-fa runs lightning_logs/lr-0.1"
    )
    names = {path.name for path in Path("lightning_logs/lr-0.1").iterdir()}
    assert {"record.json", "config.yaml", "checkpoints"} <= names
    assert [name for name in names if name == "metrics.csv" or name.startswith("events.")]  # Lightning's default logger
    assert record("lightning_logs/lr-0.1")["name"] == "lr-0.1"
    assert "lr-0.1" in "\n".join(said(capsys, "runs", "lightning_logs"))


def test_a_second_run_of_one_name_is_refused_with_the_command_that_goes_on(capsys):
    assert fit("--name", "a") == 0
    before = record("lightning_logs/a")
    line = refusal(capsys, "--name", "a")
    kept = next(Path("lightning_logs/a").rglob("*.ckpt"))
    remedy = f"choose another name, or go on with it by --ckpt_path {kept}"
    assert line == f"lit-fa: --name a: the run in lightning_logs/a has it; {remedy}"
    assert record("lightning_logs/a") == before


def test_a_run_that_goes_on_keeps_its_name_and_its_record():
    assert fit("--name", "a") == 0
    first, kept = record("lightning_logs/a"), next(Path("lightning_logs/a").rglob("*.ckpt"))
    assert fit("--name", "a", "--ckpt_path", str(kept), "--trainer.max_epochs", "3") == 0
    second = record("lightning_logs/a")
    assert second["curves"]["val/accuracy"][:2] == first["curves"]["val/accuracy"]
    assert len(second["curves"]["val/accuracy"]) == 3
    assert second["started"] == first["started"]


def test_without_a_folder_there_is_no_record_and_nothing_is_said_of_one(capsys, folder):
    lines = said(capsys, "fit", "--config", "run.yaml", "--trainer.logger", "false")
    assert "lit-fa runs" not in lines[-1]
    assert not list(folder.rglob("record.json"))


def test_a_record_that_the_config_asks_for_is_the_only_one(folder):
    callback = '{"class_path": "callbacks.RunRecord", "init_args": {"path": "own.json"}}'
    assert fit("--trainer.callbacks", f"[{callback}]") == 0
    assert [path.name for path in folder.rglob("*.json")] == ["own.json"]
    assert json.loads(Path("own.json").read_text())["seed"] == 0


def test_a_run_that_diverges_leaves_a_record_of_it(capsys):
    refusal(
        capsys, "--model.init_args.optimizer", "torch.optim.SGD", "--model.init_args.optimizer.init_args.lr", "1e30"
    )
    assert record("lightning_logs/version_0")["status"] == "diverged"


VERSION = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", ".", "--trainer.logger.version", "b"]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--name", "a/b"], "at most 100 letters"),
        (["--name", "version_3"], "runs without a name are called so"),
        (["--name", "a", *VERSION], "keep one of them"),
    ],
)
def test_a_name_that_cannot_be_given_is_one_line(capsys, words, wrong):
    assert wrong in refusal(capsys, *words)


def test_only_a_fit_has_a_name(capsys):
    assert main(["test", "--config", "run.yaml", "--name", "a"]) == 2
    assert "--name is for a fit" in capsys.readouterr().err


def test_a_job_that_slurm_has_requeued_goes_on_under_its_name(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").touch()
    with pytest.raises(UserError, match="remove that folder"):
        check_unused(tmp_path / "a", check_name("a"), None)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    check_unused(tmp_path / "a", "a", None)
