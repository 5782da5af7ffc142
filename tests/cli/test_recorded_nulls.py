"""A null in the place of another default is part of a config: it is in the record, and a rerun reads it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lit_fa.config.nulls import without_default_nulls
from lit_fa.experiment import build
from lit_fa.results.run_config import config_of
from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table

TABLE = Path(__file__).parents[2] / "paper_configs/flfa/overhead.yaml"


@pytest.fixture(scope="module")
def all_layers():
    """FLFA with `layers: null`, all layers but the first; the default is `official`."""
    table = load_table(TABLE)
    return table, next(r for r in expand(table, table.scale("smoke")) if r.cell.row == "FLFA all layers")


def layers(config) -> object:
    return config["model"]["init_args"]["rule"]["init_args"].get("layers", "the default")


def test_a_record_has_a_null_that_is_not_the_default_and_no_other(all_layers):
    recorded = build(all_layers[1].config).cli.recorded()
    assert layers(recorded) is None
    assert json.dumps(recorded).count("null") == 1
    assert build(recorded).model.rule.layers is None


def test_a_record_without_the_null_is_run_again_with_that_of_its_table(all_layers):
    table, run = all_layers
    recorded = build(run.config).cli.recorded()
    del recorded["model"]["init_args"]["rule"]["init_args"]["layers"]
    record = {"id": run.id, "row": run.cell.row, "column": run.cell.column, "scale": "smoke", "seed": run.seed}
    assert layers(config_of(record | {"config": recorded}, table)[0]) is None
    assert layers(config_of(record | {"config": recorded, "id": "another"}, table)[0]) == "the default"


def test_missing_nulls_are_found_in_lists_too_but_not_those_of_the_machine(all_layers):
    table, run = all_layers
    callback = {"class_path": "callbacks.RoundCost", "init_args": {"until": None}}
    scale = table.scale("smoke")
    changed = replace(scale, set=scale.set | {"trainer.callbacks": [callback], "trainer.logger": None})
    table = replace(table, scales=table.scales | {"smoke": changed})
    run = next(r for r in expand(table, changed) if r.cell.row == run.cell.row)
    recorded = {"trainer": {"callbacks": [{"class_path": "callbacks.RoundCost", "init_args": {}}]}}
    record = {"id": run.id, "row": run.cell.row, "column": run.cell.column, "scale": "smoke", "seed": run.seed}
    again, _ = config_of(record | {"config": recorded}, table)
    assert again["trainer"]["callbacks"] == [callback]
    assert again["trainer"]["logger"] is False


def test_nulls_of_parents_of_functions_and_of_plain_dictionaries():
    rule = {"class_path": "lit_fa.rules.FLFA", "init_args": {"layers": None, "private": None, "seed": 0}}
    unknown = {"class_path": "no.such.Class", "init_args": {"a": None, "b": [rule]}}
    config = {
        "model": {"args": {"width": None}, "rule": rule},
        "list": [unknown],
        "trainer": {"max_time": None, "logger": None},
    }
    kept = {"class_path": "lit_fa.rules.FLFA", "init_args": {"layers": None, "seed": 0}}
    assert without_default_nulls(config) == {
        "model": {"args": {"width": None}, "rule": kept},
        "list": [{"class_path": "no.such.Class", "init_args": {"b": [kept]}}],
        "trainer": {},
    }
