"""Arrays that `emit --slurm` writes, under a real Slurm: they run, are queued again, and continue."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lit_fa.commands.table import main
from tests.hosts.slurm import Cluster, install

pytestmark = pytest.mark.slow  # a Slurm is installed and started, and every task imports everything


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    install()
    started = Cluster(tmp_path_factory.mktemp("slurm"))
    yield started
    started.end()


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of six runs, two rules and three seeds, of a few seconds each."""
    monkeypatch.chdir(tmp_path)
    return declare(tmp_path, {"BP": "Backprop", "FA": "FeedbackAlignment"}, [0, 1, 2], epochs=2)


def declare(folder: Path, rules: dict[str, str], seeds: list[int], epochs: int, nap: float = 0.0) -> Path:
    callbacks = []
    if nap:
        arguments = {"seconds": nap, "counted": str(folder / "counted")}
        callbacks = [{"class_path": "tests.hosts.naps.Nap", "init_args": arguments}]
    base = {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": epochs, "logger": False,
                    "enable_progress_bar": False, "callbacks": callbacks},
        "model": {"class_path": "lit_fa.modules.Classifier",
                  "init_args": {"network": "mlp", "rule": "lit_fa.rules.Backprop"}},
        "data": {"class_path": "datamodules.Digits", "init_args": {"batch_size": 100, "validation_is_test": "allow"}},
    }  # fmt: skip
    (folder / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    cells = [
        {"row": row, "column": "digits", "set": {"model.init_args.rule": f"lit_fa.rules.{rule}"}}
        for row, rule in rules.items()
    ]
    declared = {
        "paper": {"key": "slurm", "title": "Slurm", "arxiv": "0000.00000", "table": "Table 1"},
        "base": "base.yaml", "metric": {"name": "test/accuracy", "unit": "%"}, "seeds": seeds,
        "seeded": ["seed_everything"], "scales": {"cpu": {"set": {}}}, "cells": cells,
    }  # fmt: skip
    (folder / "table1.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
    return folder / "table1.yaml"


def emitted(table: Path, *options: str) -> Path:
    script = table.parent / "array.sh"
    words = ["--scale", "cpu", "--out", str(table.parent / "out"), "--allow-dirty", "--to", str(script), *options]
    assert main(["emit", str(table), "--slurm", *words]) == 0
    return script


def records(table: Path) -> list[dict]:
    found = sorted((table.parent / "out").rglob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def said(cluster: Cluster) -> str:
    return "\n".join(p.read_text(encoding="utf-8") for p in sorted(cluster.folder.glob("slurm-*.out")))


def test_an_array_of_six_tasks_runs_a_whole_table(cluster: Cluster, table: Path):
    job = cluster.submit(emitted(table))
    assert cluster.wait(job, 400) == {str(task): "COMPLETED" for task in range(6)}, said(cluster)
    made = records(table)
    assert [record["status"] for record in made] == ["finished"] * 6
    assert len({record["id"] for record in made}) == 6
    out = ["--scale", "cpu", "--out", str(table.parent / "out")]
    assert main(["report", str(table), *out]) == 0


def unbroken(folder: Path, **options) -> dict:
    """The record of the same run, which nothing has stopped."""
    folder.mkdir()
    table = declare(folder, **options)
    assert main(["run", str(table), "--scale", "cpu", "--out", str(folder / "out"), "--allow-dirty"]) == 0
    (record,) = records(table)
    return record


LONG = {"rules": {"FA": "FeedbackAlignment"}, "seeds": [0], "epochs": 12}


def test_a_requeued_run_continues_from_its_checkpoint(cluster: Cluster, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = declare(tmp_path, **LONG, nap=0.1)
    job = cluster.submit(emitted(table))
    cluster.until(lambda: bool([*(tmp_path / "out").rglob(".*/last.ckpt")]), 200)
    time.sleep(2)
    cluster.say("scontrol", "requeue", f"{job}_0")
    assert cluster.wait(job, 400) == {"0": "COMPLETED"}, said(cluster)
    check_equal(records(table), unbroken(tmp_path / "whole", **LONG, nap=0.01), tmp_path)


def test_a_task_stops_before_its_time_limit_and_goes_on_in_another_turn(cluster: Cluster, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Slurm looks at the limits every 30 s, so that a turn of 2 minutes lasts 60 to 90 s; the run takes longer
    table = declare(tmp_path, **LONG, nap=0.6)
    job = cluster.submit(emitted(table, "--sbatch", "time=2", "--sbatch", "signal=B:USR1@30"))
    assert cluster.wait(job, 600) == {"0": "COMPLETED"}, said(cluster)
    assert int(cluster.say("squeue", "-h", "-t", "all", "-j", job, "-O", "restartcnt").split()[0]) >= 1
    check_equal(records(table), unbroken(tmp_path / "whole", **LONG, nap=0.01), tmp_path)


def check_equal(made: list[dict], whole: dict, folder: Path) -> None:
    """The run has the result of an unbroken one, and has taken as many steps in all its turns."""
    (record,) = made
    assert record["metrics"] == whole["metrics"]
    assert record["curves"] == whole["curves"]
    assert len((folder / "counted").read_bytes()) == len((folder / "whole" / "counted").read_bytes())
