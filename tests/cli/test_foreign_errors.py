"""Other packages' errors, and paths that cannot be written, are one line and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_fa.__main__ import main
from lit_fa.foreign_errors import known_message
from tests.cli.test_command_line import RUN

MODEL = "--model.init_args"
ONE_CYCLE = '{"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 2}}'
CONSTRUCTORS = """
import lightning as L

class Silent(L.Callback):
    def __init__(self):
        assert False

class Keyed(L.Callback):
    def __init__(self):
        raise KeyError("door")
"""


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(yaml.safe_dump(RUN), encoding="utf-8")
    Path("constructors.py").write_text(CONSTRUCTORS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--json", "run.yaml/a.json"], "--json: cannot write in run.yaml"),
        (["--json", "."], "--json .: is a folder"),
        (["--trainer.logger", "true", "--trainer.default_root_dir", "run.yaml/x"], "cannot write in"),
        ([f"{MODEL}.scheduler", ONE_CYCLE, f"{MODEL}.scheduler_interval", "step"], "the scheduler has 2 steps"),
        ([f"{MODEL}.optimizer.lr", "-1"], "Invalid learning rate: -1.0"),
        ([f"{MODEL}.network_args", "{num_classes: 3}"], "num_classes follows from the data"),
        ([f"{MODEL}.network_args", "{pretrained: true}"], "write model.init_args.pretrained"),
        ([f"{MODEL}.network", "resnet10t", f"{MODEL}.network_args", "{global_pool: ''}"], "global_pool must pool"),
        (
            ["--trainer.callbacks", "constructors.Silent"],
            "constructors.Silent: its constructor fails without a message",
        ),
        (["--trainer.callbacks", "constructors.Keyed"], "KeyError: 'door'"),
        (["--logger", "csv", "--trainer.logger.name", "x"], "--trainer.logger.name beside --logger"),
        (["--trainer.devices", "0"], "trainer.devices is '0': write a number of devices"),
        (["--seed_everything", "-1"], "seed_everything is -1: write a whole number"),
        (["--trainer.max_epochs", "abc"], "trainer.max_epochs: expected a whole number or null (given: abc)"),
        ([f"{MODEL}.layer_lr", "{a: b}"], "layer_lr: expected a number or null"),
        ([f"{MODEL}.optimizer.momentum", "(0.9, 1)"], "momentum: expected a number"),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys):
    assert main(["fit", "--config", "run.yaml", *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("lit-fa: ")
    assert said in line
    assert not any(internal in line for internal in ("<class", "Namespace(", "NestedArg", "jsonargparse"))


def test_an_unknown_error_is_not_told():
    assert known_message(ZeroDivisionError("division by zero")) is None
    assert known_message(RuntimeError("a fault of ours")) is None


def test_a_text_with_braces_and_backslashes_is_told_as_it_is():
    class UsageError(Exception):
        pass

    UsageError.__module__ = "wandb"
    code = compile("raise kind(said)", "/site-packages/wandb/sdk.py", "exec")
    with pytest.raises(UsageError) as caught:
        exec(code, {"kind": UsageError, "said": r"project 'a{b}\1'"})
    assert known_message(caught.value) == r"W&B: project 'a{b}\1'; correct it, or take --logger csv"


@pytest.mark.slow  # a process of its own; tests/test_encodings.py reads all calls of `open`
def test_a_locale_of_ascii_reads_and_writes_utf_8(tmp_path):
    record = {"class_path": "RunRecord", "init_args": {"path": "r.json", "record": {"note": "Zürich"}}}
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": ".", "name": "logs"}}
    config = RUN | {"trainer": RUN["trainer"] | {"callbacks": [record], "logger": logger}}
    config = yaml.safe_dump(config, allow_unicode=True)
    (tmp_path / "run.yaml").write_text(f"# Zürich\n{config}", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "lit_fa", "fit", "--config", "run.yaml", "--trainer.limit_train_batches", "1"]
    words += ["--trainer.logger.init_args.prefix", "", "--data.init_args.label_noise", "0.0", "--json", "a.json"]
    done = subprocess.run(words, env=os.environ | ascii_only, capture_output=True, encoding="utf-8", errors="replace")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.json").is_file()
    (saved,) = (tmp_path / "logs").rglob("config.yaml")
    assert "note: Zürich" in saved.read_text(encoding="utf-8")
