"""`callbacks.X` and `datamodules.X` mean our classes wherever a user's module has one of these names."""

import subprocess
import sys
from pathlib import Path

import pytest

import lit_fa.callbacks
import lit_fa.datamodules
from lit_fa.config.parser import Parser
from lit_fa.described import imported, path_of
from lit_fa.import_paths import full, is_ours, short

ROOT = Path(__file__).resolve().parents[1]
USERS = """
import lightning as L
from lit_fa.datamodules import Digits

class Mine(L.Callback):
    def on_fit_end(self, trainer, module):
        print("the user's callback")

class MyDigits(Digits):
    pass
"""


@pytest.fixture
def beside(tmp_path):
    """A folder with modules of a user that are called as our packages are."""
    for name in lit_fa.import_paths.PACKAGES:
        (tmp_path / f"{name}.py").write_text(USERS, encoding="utf-8")
    return tmp_path


def python(folder, *words, home=None):
    """Run Python in a folder, whose modules come first."""
    environment = {
        "PYTHONPATH": f"{folder}:{ROOT}",
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
    }
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_every_public_name_keeps_its_name_in_configs():
    for package in (lit_fa.callbacks, lit_fa.datamodules):
        for name in package.__all__:
            path = f"{short(package.__name__)}.{name}"
            assert full(path) == f"{package.__name__}.{name}"
            assert is_ours(path)
            value = imported(path)
            assert value is getattr(package, name)
            if isinstance(value, type):
                assert path_of(value).startswith(f"{short(package.__name__)}.")


def test_within_the_repository_both_names_are_one_module(tmp_path):
    code = (
        "import callbacks, callbacks.probe, datamodules, lit_fa.callbacks, lit_fa.datamodules, sys\n"
        "assert callbacks.RunRecord is lit_fa.callbacks.RunRecord\n"
        "assert sys.modules['callbacks.probe'] is sys.modules['lit_fa.callbacks.probe']\n"
        "assert sys.modules['callbacks.probe'].__spec__.name == 'lit_fa.callbacks.probe'\n"
        "assert datamodules.MNIST is lit_fa.datamodules.MNIST"
    )
    assert python(ROOT, "-c", code, home=tmp_path).returncode == 0


@pytest.mark.slow  # the run below imports both as well
def test_the_user_s_module_stays_the_user_s(beside):
    code = "import lit_fa.callbacks, callbacks; assert callbacks.Mine; assert not hasattr(callbacks, 'RunRecord')"
    assert python(beside, "-c", code).stderr == ""


def test_a_run_uses_ours_and_the_user_s_class_that_we_lack(beside):
    words = [
        *("fit", "--model", "Classifier", "--model.network", "mlp", "--model.rule", "FeedbackAlignment"),
        *("--model.optimizer", "SGD", "--model.optimizer.lr", "0.1", "--trainer.max_epochs", "1"),
        *("--data", "datamodules.MyDigits", "--trainer.callbacks+=callbacks.Mine"),
        *("--trainer.callbacks+=callbacks.RunRecord", "--trainer.callbacks.path", "record.json"),
        *("--trainer.enable_progress_bar", "false"),
    ]
    done = python(beside, "-m", "lit_fa", *words)
    assert done.returncode == 0, done.stderr
    assert "the user's callback" in done.stdout
    assert (beside / "record.json").is_file()


@pytest.mark.slow
def test_a_class_that_neither_has_is_one_line(beside):
    done = python(beside, "-m", "lit_fa", "fit", "--data", "datamodules.MNISTT")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "MNIST" in done.stderr


def test_a_parser_s_text_has_the_short_name():
    parser = Parser()
    parser.add_argument("--data", type=lit_fa.datamodules.VisionDataModule)
    config = parser.parse_args(["--data=MNIST"])
    assert "class_path: datamodules.MNIST" in parser.dump(config)
