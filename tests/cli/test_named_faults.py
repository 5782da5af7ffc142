"""`LIT_FA_FAULT`: a fault at a step, at an epoch or in a save, asked for by name."""

import json
import signal
from pathlib import Path

import pytest
import yaml

from callbacks.named_fault import named_faults
from lit_fa import faults
from lit_fa.__main__ import main
from lit_fa.commands.fit import fit_and_record
from lit_fa.errors import UserError
from tests.cli.test_command_line import RUN


@pytest.fixture
def config(tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(tmp_path)
    return RUN | {"trainer": RUN["trainer"] | {"max_epochs": 3, "default_root_dir": str(tmp_path)}}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("kill@37", faults.Fault("kill", step=37)),
        ("sigterm@epoch2", faults.Fault("sigterm", epoch=2)),
        ("nan@5", faults.Fault("nan", step=5)),
        ("disk@save", faults.Fault("disk")),
        ("kill@save", faults.Fault("kill")),
    ],
)
def test_a_fault_has_a_name(name, fault):
    assert faults.parsed(name) == fault


@pytest.mark.parametrize(
    "name",
    ["kill", "kill@", "@5", "boom@5", "disk@5", "nan@save", "kill@-1", "kill@epoch", "kill@5 ", "kill@" + "9" * 40],
)
def test_a_name_that_is_none_is_refused_in_one_line(name, monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, name)
    with pytest.raises(UserError, match=r"LIT_FA_FAULT=.*: write kill, sigterm") as refused:
        faults.asked()
    assert len(str(refused.value).splitlines()) == 1


def test_without_the_variable_nothing_is_attached(monkeypatch):
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    assert named_faults() == []
    assert faults.while_writing("x") is None


@pytest.mark.parametrize(("name", "step"), [("sigterm@5", 6), ("sigint@epoch2", 25)])
def test_a_signal_comes_where_it_was_asked_for(name, step, config, monkeypatch, capsys):
    monkeypatch.setenv(faults.VARIABLE, name)
    Path("run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "run.yaml"])
    assert ended.value.code == 128 + (signal.SIGTERM if "term" in name else signal.SIGINT)
    assert f"interrupted after step {step};" in capsys.readouterr().out


def test_nan_at_a_step_is_a_divergence_of_that_step(config, tmp_path, monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, "nan@5")
    fit_and_record(config, {"path": str(tmp_path / "r.json")})
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert (record["status"], record["diverged"]["step"]) == ("diverged", 5)


def test_a_full_disk_in_a_save_is_one_line_and_the_run_goes_on(config, tmp_path, monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, "disk@save")
    with pytest.raises(UserError, match="No space left on device"):
        fit_and_record(config, {"path": str(tmp_path / "r.json")})
    monkeypatch.delenv(faults.VARIABLE)
    fit_and_record(config, {"path": str(tmp_path / "r.json")})
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["status"] == "finished"
