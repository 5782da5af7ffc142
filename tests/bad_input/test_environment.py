"""Folders that the environment names and that are none, and a study that is no database."""

import json
from pathlib import Path

import pytest
import yaml

from lit_fa.__main__ import main
from tests.bad_input.conftest import PLAIN


@pytest.mark.parametrize("name", ["LIT_FA_CACHE", "HOME"])
def test_a_cache_that_is_a_file(name, monkeypatch, refused):
    monkeypatch.delenv("LIT_FA_CACHE", raising=False)
    Path("file").write_text("")
    monkeypatch.setenv(name, str(Path("file").absolute()))
    assert "LIT_FA_CACHE" in refused("fit", "--config", "run.yaml", "--pretrain", json.dumps(PLAIN))


def test_data_in_a_file(monkeypatch, refused):
    Path("file").write_text("")
    monkeypatch.setenv("LIT_FA_DATA", str(Path("file").absolute()))
    assert "LIT_FA_DATA" in refused("fit", "--config", "run.yaml", "--data", "MNIST")


def test_a_study_that_is_no_database(capsys):
    sweep = yaml.safe_load(Path("sweep.yaml").read_text())
    Path("out").mkdir()
    Path("out/study.db").write_text("no database" * 100)
    assert sweep
    assert main(["sweep", "run", "sweep.yaml", "--out", "out"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("lit-fa: the study's database")
    assert Path("out/study.db").read_text() == "no database" * 100
