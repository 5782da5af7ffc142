"""What the committed federated records say that clients held is what their seeds deal."""

import json
import os
from pathlib import Path

import pytest

import datamodules
from lit_fa.tables.collect import collect
from lit_fa.tables.schema import load_table

ROOT = Path(__file__).parents[2]
DEALING = ("data", "clients", "partition", "partition_args", "partition_seed", "seed")


def made(spec: dict) -> object:
    """The datamodule of a config; a federated one holds another."""
    arguments = {name: made(value) if name == "data" else value for name, value in spec.get("init_args", {}).items()}
    return getattr(datamodules, spec["class_path"].rsplit(".", 1)[-1])(**arguments)


@pytest.mark.parametrize("name", ["table1", "noniid", "losses", "table2", "tuning"])
def test_a_recorded_partition_is_dealt_again_from_its_seed(name):
    if not (Path(os.environ.get("LIT_FA_DATA") or "data") / "MNIST").is_dir():
        pytest.skip("needs MNIST in the folder LIT_FA_DATA names")
    table = load_table(ROOT / "paper_configs" / "fedfwd" / f"{name}.yaml")
    found = collect(table, table.scale("cpu"), table.path.parent / "results" / name / "cpu")
    configs = {run.file_name: run.config["data"] for run in found.runs}
    dealt: dict[str, list] = {}
    for record in found.all:
        arguments = configs[record.path.name]["init_args"]
        key = json.dumps({key: arguments.get(key) for key in DEALING}, sort_keys=True)
        if key not in dealt:
            data = made(configs[record.path.name])
            data.setup("fit")
            dealt[key] = data.class_counts.tolist()
        assert record.data["partition"] == dealt[key], record.path.name
    assert dealt
