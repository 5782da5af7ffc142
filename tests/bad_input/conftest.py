"""A folder with small files that are right, and the one check of what a command says of a wrong one."""

import copy
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml

from lit_fa.__main__ import main
from tests.cli.test_command_line import RUN

PLAIN = copy.deepcopy(RUN)
PLAIN["model"]["init_args"]["rule"] = {"class_path": "FeedbackAlignment"}
PLAIN["data"]["init_args"] = {"batch_size": 32, "limit_train": 64, "limit_test": 64}
FEDERATED = PLAIN | {
    "model": {
        "class_path": "FederatedClassifier",
        "init_args": {"network": "mlp", "network_args": {"hidden": [8]}, "executor": "sequential"},
    },
    "data": {
        "class_path": "Federated",
        "init_args": {"data": PLAIN["data"], "clients": 4, "clients_per_round": 2, "local_epochs": 1},
    },
}
TABLE = {
    "paper": {"key": "demo", "title": "Demo", "table": "1"},
    "base": "run.yaml",
    "metric": {"name": "test/accuracy", "unit": "%"},
    "seeds": [0, 1],
    "scales": {"smoke": {"set": {"trainer.max_epochs": 1}}, "full": {}},
    "cells": [
        {
            "row": "FA",
            "column": "8",
            "set": {"trainer.max_epochs": 2},
            "published": {"value": 90.0, "unit": "%"},
            "accept": {"margin": 1, "why": "a point"},
        }
    ],
}
SWEEP = {
    "program": "lit-fa",
    "command": ["${env}", "${program}", "fit", "--config", "run.yaml", "${args}"],
    "method": "grid",
    "metric": {"name": "val/accuracy", "goal": "maximize"},
    "parameters": {"model.init_args.optimizer.init_args.lr": {"values": [0.1, 0.01]}},
}
INTERNAL = (
    "<class",
    "Namespace(",
    "NestedArg",
    "jsonargparse",
    "typing.",
    "Traceback",
    "usage:",
    "Got value",
    "object has no",
)


def thinned(cases: Iterable[tuple], every: int = 2, keep: tuple[str, ...] = ()) -> list:
    """Cases for `parametrize`: one of so many is quick, and those in which a word of `keep` stands; others are slow."""
    found = []
    for number, case in enumerate(cases):
        quick = number % every == 0 or any(word in str(case) for word in keep)
        found.append(pytest.param(*case, marks=[] if quick else pytest.mark.slow))
    return found


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    """Files that are right: a run, a federation, a table, a sweep."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # of handlers that an earlier test has left behind
    for name, data in {"run": PLAIN, "federation": FEDERATED, "table": TABLE, "sweep": SWEEP}.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Run a command line that must end with exit code 2, one line and no file; returns the line."""

    def refuse(*words: str) -> str:
        before = contents()
        try:
            code = main([*words])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr().err
        assert code == 2, f"exit code {code}: {said}"
        assert contents() == before
        lines = said.strip().splitlines()
        assert [line for line in lines if line.startswith("lit-fa: ")] == lines[-1:], said
        assert not [word for word in INTERNAL if word in said], said
        assert 20 < len(lines[-1]) < 700
        return lines[-1]

    return refuse


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}
