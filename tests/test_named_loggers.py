"""One list of loggers for fit, tables and sweeps."""

import subprocess
import sys

import pytest

from lit_fa import named_loggers
from lit_fa.__main__ import main
from lit_fa.errors import UserError
from lit_fa.loggers import written_out
from lit_fa.named_loggers import NAMES, logger_config, words_of_a_trial


@pytest.fixture
def installed(monkeypatch):
    """Function that says which packages are installed."""
    return lambda *names: monkeypatch.setattr(named_loggers, "find_spec", lambda name: name in names)


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_package_is_one_line_with_the_command(installed, name):
    installed()
    for ask in (logger_config, lambda name: words_of_a_trial(name, "p")):
        with pytest.raises(UserError, match=rf"^the logger {name} needs a package: pip install {name}$"):
            ask(name)


def test_tensorboard_is_there_in_either_of_its_packages(installed):
    installed("tensorboardX")
    assert logger_config("tensorboard")["class_path"].endswith("TensorBoardLogger")


def test_none_is_no_logger_in_a_config_and_in_a_trial(installed):
    assert logger_config("none") is False
    assert written_out({"trainer": {"logger": "none"}}, "id")["trainer"]["logger"] is False
    assert words_of_a_trial("none", "p") == ("--trainer.logger=false",)


def test_a_run_of_a_table_has_a_folder_of_its_own():
    assert logger_config("csv", "abc")["init_args"] == {"save_dir": ".", "name": "lightning_logs/abc"}


@pytest.mark.parametrize(
    "command", [("table", "run", "x.yaml"), ("sweep", "run", "x.yaml"), ("fit", "--config", "x.yaml")]
)
def test_every_command_knows_the_same_names(capsys, command):
    assert main([*command, "--logger", "wand"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in NAMES) or "nearest: wandb" in said


def test_a_table_is_refused_before_it_starts_anything(capsys, installed):
    installed()
    assert main(["table", "run", "absent.yaml", "--logger", "trackio"]) == 2
    assert "lit-fa: the logger trackio needs a package: pip install trackio" in capsys.readouterr().err


def test_the_list_imports_no_torch():
    code = "import lit_fa.named_loggers, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
