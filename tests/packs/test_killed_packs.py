"""A pack whose process is killed goes on from the checkpoints of its runs, and its records are those of runs alone."""

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import yaml

from lit_fa import experiment
from lit_fa.commands.table import main
from lit_fa.packs import Lane, Pack
from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table
from tests.packs.test_packs import MIXED, alone, body, config, packed, read, results

pytestmark = pytest.mark.usefixtures("one_thread")
SPARED = "LIT_FA_TEST_SPARED"  # names the file that keeps runs alive


class Killed(L.Callback):
    """Ends its process, as the system does, in a step, once: until there is a file at `$LIT_FA_TEST_SPARED`."""

    needs_every_batch = False

    def __init__(self, step: int):
        self.step = step

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: object) -> None:
        spared = Path(os.environ[SPARED])
        if trainer.global_step + 1 == self.step and not spared.exists():
            spared.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def spared(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(SPARED, str(tmp_path / "spared"))
    return tmp_path / "spared"


def with_kill(chosen: dict, step: int) -> dict:
    kill = {"class_path": "tests.packs.test_killed_packs.Killed", "init_args": {"step": step}}
    return chosen | {"trainer": chosen["trainer"] | {"callbacks": [kill, *chosen["trainer"]["callbacks"]]}}


def killed(runs: dict[str, dict], folder: Path) -> None:
    """The pack of these runs in a process that is killed."""
    pid = os.fork()
    if not pid:
        try:
            Pack([Lane(partial(body, folder / f"{name}.json", chosen)) for name, chosen in runs.items()]).run()
        finally:
            os._exit(70)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_killed_pack_goes_on_bit_for_bit_packed_and_alone(tmp_path, spared):
    names = ("fa", "adam", "momentum")
    runs = {name: with_kill(MIXED[name], 11 if name == "adam" else 10**6) for name in names}  # in the second epoch
    killed(runs, tmp_path / "packed")
    assert spared.exists()
    assert not read(tmp_path / "packed")
    assert [(tmp_path / "packed" / f".{name}" / "last.ckpt").is_file() for name in names] == [True] * 3
    packed(tmp_path / "packed", {name: runs[name] for name in names[:2]})
    body(tmp_path / "packed" / "momentum.json", runs["momentum"])
    assert results(read(tmp_path / "packed")) == results(alone(tmp_path / "alone", runs))
    lanes = {name: record["packed"]["lanes"] for name, record in read(tmp_path / "packed").items()}
    assert lanes == dict.fromkeys(names, 3)  # also of the run that has ended alone


@pytest.mark.slow  # two workers are started
def test_runs_of_a_killed_worker_are_tried_again_one_at_a_time(tmp_path, spared, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    path = save(tmp_path)
    assert main(["run", str(path), "--pack", "8", "--allow-dirty"]) == 0
    printed = capfd.readouterr().out
    assert "--pack 8: there are only 3 runs" in printed
    assert printed.count("was killed") == 3
    folder = tmp_path / "results/table1/full"
    assert [record["packed"]["lanes"] for record in read(folder).values()] == [3] * 3
    (tmp_path / "alone").mkdir()
    table = load_table(path)
    for run in expand(table, replace(table.scale("full"), seeds=(0,))):
        experiment.run(run.config, {"id": run.id, "path": str(tmp_path / "alone" / run.file_name)})
    again, expected = read(folder), read(tmp_path / "alone")  # whose first fields are not those of a table
    measured = ("id", "status", "config", "metrics", "curves", "broken", "dataset")
    assert {n: [r[key] for key in measured] for n, r in again.items()} == {
        n: [r[key] for key in measured] for n, r in expected.items()
    }


def save(folder: Path) -> Path:
    """A table of three runs, one of which kills its worker in the second epoch."""
    (folder / "base.yaml").write_text(yaml.safe_dump(with_kill(config(), 10**6)))
    rules = {"BP": "Backprop", "FA": "FeedbackAlignment", "sign": "FeedbackAlignment"}
    cells = [
        {"row": row, "column": "a", "set": {"model.init_args.rule.class_path": f"lit_fa.rules.{rule}"}}
        for row, rule in rules.items()
    ]
    cells[1]["set"] |= {"trainer.callbacks": with_kill(config(), 11)["trainer"]["callbacks"]}
    cells[2]["set"] |= {"model.init_args.optimizer.init_args.lr": 0.05}
    table = {
        "paper": {"key": "killed", "title": "Killed", "arxiv": "0000.00000", "table": "Table 1"},
        "base": "base.yaml",
        "metric": {"name": "test/accuracy", "unit": "%"},
        "seeds": [0],
        "seeded": ["seed_everything"],
        "scales": {"smoke": {"set": {}}, "full": {"set": {}}},
        "cells": cells,
    }
    (folder / "table1.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    return folder / "table1.yaml"
