"""Fixtures: a sweep file in a folder of its own, with a base config that is there."""

import pytest
import yaml


@pytest.fixture
def declared(tmp_path, monkeypatch) -> dict:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("trainer: {max_epochs: 1}\n")
    return {
        "program": "lit-fa",
        "command": ["${env}", "${program}", "fit", "--config", "base.yaml", "${args}"],
        "method": "grid",
        "metric": {"name": "val/accuracy", "goal": "maximize"},
        "parameters": {"lr": {"values": [0.1, 0.2, 0.3]}, "model": {"parameters": {"width": {"values": [1, 2]}}}},
    }


@pytest.fixture
def save(tmp_path):
    def write(content: dict):
        path = tmp_path / "sweep_lr.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write
