"""`LIT_FA_FAULT`: a fault at a step, at an epoch or in a save, asked for by name."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from lit_fa import faults
from lit_fa.__main__ import main
from lit_fa.callbacks.named_fault import named_faults
from lit_fa.callbacks.run_record import write_json
from lit_fa.checkpoints.files import save
from lit_fa.errors import UserError
from lit_fa.experiment import run
from lit_fa.outputs import write_text
from lit_fa.reports.card import write_block
from tests.cli.test_command_line import RUN

CARD = "# Card\n<!-- table:t:begin -->\n<!-- table:t:end -->\nBelow.\n"
WRITERS = {
    "a record": lambda path: write_json(path, {"a": 1}),
    "a text": lambda path: write_text(path, "new"),
    "a card": lambda path: write_block(path, "t", "new"),
    "a checkpoint": lambda path: save({"a": 1}, path),
}


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
        ("readonly@save", faults.Fault("readonly")),
        ("kill@save", faults.Fault("kill")),
    ],
)
def test_a_fault_has_a_name(name, fault):
    assert faults.parsed(name) == fault


@pytest.mark.parametrize(
    "name",
    [
        "kill",
        "kill@",
        "@5",
        "boom@5",
        "disk@5",
        "readonly@epoch1",
        "nan@save",
        "kill@-1",
        "kill@epoch",
        "kill@5 ",
        "kill@" + "9" * 40,
    ],
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
    run(config, {"path": str(tmp_path / "r.json")})
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert (record["status"], record["diverged"]["step"]) == ("diverged", 5)


def test_a_full_disk_in_a_save_is_one_line_and_the_run_goes_on(config, tmp_path, monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, "disk@save")
    with pytest.raises(UserError, match="No space left on device"):
        run(config, {"path": str(tmp_path / "r.json")})
    monkeypatch.delenv(faults.VARIABLE)
    run(config, {"path": str(tmp_path / "r.json")})
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["status"] == "finished"


@pytest.mark.parametrize(("name", "said"), [("disk@save", "No space left on device"), ("readonly@save", "Read-only")])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_fails_under_every_output_in_one_line_and_the_old_file_stays(writer, name, said, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text(CARD, encoding="utf-8")
    monkeypatch.setenv(faults.VARIABLE, name)
    with pytest.raises(UserError, match=f"file: cannot be written .{said}") as told:
        WRITERS[writer](path)
    assert len(str(told.value).splitlines()) == 1
    assert path.read_text(encoding="utf-8") == CARD
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_kill_under_every_output_leaves_the_old_file_and_the_next_writer_tidies_up(writer, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text(CARD, encoding="utf-8")
    monkeypatch.setenv(faults.VARIABLE, "kill@save")
    if not (child := os.fork()):
        WRITERS[writer](path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.read_text(encoding="utf-8") == CARD
    monkeypatch.delenv(faults.VARIABLE)
    WRITERS[writer](path)
    assert path.read_bytes() != CARD.encode()
    assert [*tmp_path.iterdir()] == [path]
