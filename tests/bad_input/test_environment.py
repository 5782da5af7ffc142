"""Folders that the environment names and that are none, and a study that is no database."""

import json
import os
from pathlib import Path

import pytest
import yaml

from lit_fa.__main__ import main
from lit_fa.jobs.lock import checkpoints_of, in_the_way, lock_of
from lit_fa.jobs.worker import work
from lit_fa.spec.expand import expand
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import load_table
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


@pytest.mark.parametrize(
    ("place", "make", "wanted"),
    [
        (checkpoints_of, Path.touch, "a folder of checkpoints"),
        (lock_of, Path.mkdir, "a file"),
        (lambda record: record, Path.mkdir, "a file"),
        (lock_of, os.mkfifo, "a file"),
        (checkpoints_of, lambda path: path.symlink_to("elsewhere"), "a folder of checkpoints"),
    ],
)
def test_what_is_in_the_way_of_a_cell_is_named_and_left_alone(place, make, wanted, capsys):
    table = load_table("table.yaml")
    first, *_ = expand(table, table.scales["smoke"])
    path = place(output_paths(table, "smoke", tree_of(table), out=Path("out")).target / first.file_name)
    path.parent.mkdir(parents=True)
    make(path)
    assert main(["table", "run", "table.yaml", "--scale", "smoke", "--out", "out", "--seeds", "0"]) == 2
    said = "".join(capsys.readouterr())
    assert f"{path.name} is in the way of {wanted} of this run: move it away" in " ".join(said.split())
    assert os.path.lexists(path)


def test_what_is_in_the_way_of_a_trial_is_a_failure_that_names_it():
    record = Path("out/record.json")
    record.parent.mkdir()
    checkpoints_of(record).touch()
    done = work("no.runner:here", {}, {"path": str(record)}, "log")
    assert (done.user_error, done.reason) == (True, in_the_way(record))


def test_a_study_that_is_no_database(capsys):
    sweep = yaml.safe_load(Path("sweep.yaml").read_text())
    Path("out").mkdir()
    Path("out/study.db").write_text("no database" * 100)
    assert sweep
    assert main(["sweep", "run", "sweep.yaml", "--out", "out"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("lit-fa: the study's database")
    assert Path("out/study.db").read_text() == "no database" * 100
