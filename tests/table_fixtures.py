"""Fixtures: a small complete table in a temporary folder, and records of its runs without any training."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table
from tests.fake_runner import record_of

BASE = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 50, "devices": 1, "logger": False},
    "model": {"class_path": "Classifier", "init_args": {"rule": {"class_path": "FA", "init_args": {"seed": 0}}}},
    "data": {"class_path": "MNIST", "init_args": {"root": "data", "seed": 0, "batch_size": 128, "num_workers": 0}},
}
TABLE = {
    "paper": {"key": "conservation", "title": "Implicit", "arxiv": "2306.01870", "table": "Table 1"},
    "base": "base.yaml",
    "metric": {"name": "test/accuracy", "unit": "%"},
    "seeds": [0, 1, 2],
    "seeded": ["seed_everything", "data.init_args.seed", "model.init_args.rule.init_args.seed?"],
    "accept": {"margin": 0.3, "why": "the table prints one decimal"},
    "assumed": {"data.init_args.batch_size": "128; the paper is silent"},
    "scales": {
        "smoke": {"seeds": [0], "set": {"trainer.max_epochs": 1}},
        "cpu": {"seeds": [0, 1], "set": {"trainer.max_epochs": 10}, "note": "10 of the paper's 50 epochs"},
        "full": {"set": {}},
    },
    "cells": [
        {
            "row": "FA",
            "column": "width 32",
            "set": {"model.init_args.width": 32},
            "published": {"value": 91.0, "unit": "%", "std": 0.1, "n": 3, "source": "Table 1"},
        },
        {"row": "BP", "column": "width 32", "set": {"model.init_args.rule": {"class_path": "BP"}}},
    ],
}


@pytest.fixture
def declared() -> dict:
    """The table as plain data, to be changed by a test."""
    return copy.deepcopy(TABLE)


@pytest.fixture
def save(tmp_path) -> Callable[[dict], Path]:
    """Writes a table beside its base and returns the path of the table."""

    def write(table: dict, name: str = "table1.yaml") -> Path:
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
        (tmp_path / name).write_text(yaml.safe_dump(table, sort_keys=False))
        return tmp_path / name

    return write


@pytest.fixture
def fill() -> Callable[..., list[Path]]:
    """Writes a finished record for every run of a table at a scale, by its label; `accuracy(run)` is the metric."""

    def write(path: Path, scale: str, accuracy=lambda run: 90.0 + run.seed, **changes) -> list[Path]:
        table, of_label = load_table(path).labelled(scale)
        folder = path.parent / "results" / table.name / scale
        folder.mkdir(parents=True, exist_ok=True)
        for run in expand(table, of_label):
            head = {
                "id": run.id,
                "row": run.cell.row,
                "column": run.cell.column,
                "seed": run.seed,
                "commit": "abcdef01",
            }
            metrics = {"test/accuracy": accuracy(run), "test/loss": 0.1 * (run.seed + 1)}
            record = record_of({**head, "scale": of_label.name, "dirty": False}, run.config, metrics=metrics, **changes)
            (folder / run.file_name).write_text(json.dumps(record))
        return sorted(folder.glob("*.json"))

    return write
