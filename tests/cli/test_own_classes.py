"""A class of the user's own is found by its import path, by the console script as by `python -m`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RULE = """
from lit_fa import Backprop


class Mine(Backprop):
    pass
"""
WORDS = ["fit", "--model", "Classifier", "--model.init_args.network", "mlp", "--data", "Digits"]
WORDS += ["--trainer.fast_dev_run", "true", "--data.init_args.flatten", "true"]


@pytest.mark.parametrize(
    "start", [["-m", "lit_fa"], [str(Path(sys.executable).with_name("lit-fa"))]], ids=["-m", "script"]
)
def test_a_rule_in_the_working_directory_is_found(start, tmp_path):
    (tmp_path / "mylab.py").write_text(RULE)
    command = [sys.executable, *start, *WORDS, "--model.init_args.rule", "mylab.Mine"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
