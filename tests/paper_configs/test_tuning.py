"""Tuned step sizes: equal grids for all methods, no best rate at the edge of its grid, and tables that use it."""

import json
import re
from pathlib import Path

import pytest

from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table

ROOT = Path(__file__).parents[2] / "paper_configs"
TUNING = ["fedfwd/tuning", "foundations/tuning"]
TABLES = ["fedfwd/table1", "fedfwd/losses", "foundations/mnist_mlp", "foundations/forward_forward"]
ROW = re.compile(r"(?P<method>.+), rate (?P<rate>[0-9.]+)")
LEVEL = 0.5  # points of accuracy: by less, two trials may change places on another machine
Grids = dict[tuple[str, str], dict[float, float | None]]


def runs(name: str) -> list:
    table = load_table(ROOT / f"{name}.yaml")
    return expand(table, table.scale("cpu"), seeds=[0])


def grids(name: str) -> Grids:
    """(method, column) to rate to accuracy on held-out data; None where the trial has no record."""
    found: Grids = {}
    for run in runs(name):
        labels = ROW.fullmatch(run.cell.row)
        path = ROOT / name.split("/")[0] / "results" / "tuning" / "cpu" / run.file_name
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        value = record["metrics"]["val/accuracy"] if record and record["status"] == "finished" else 0.0
        found.setdefault((labels["method"], run.cell.column), {})[float(labels["rate"])] = value if record else None
    return found


def best(trials: dict[float, float | None]) -> float:
    return max(trials, key=trials.get)


def complete(name: str) -> Grids:
    """The grids whose every trial has been run."""
    return {key: trials for key, trials in grids(name).items() if None not in trials.values()}


def method(name: str, config: dict) -> str | None:
    """What a run of a table is called in the tuning table of its paper."""
    made = config["model"]["init_args"]
    rule, options = made["rule"]["class_path"].rsplit(".", 1)[-1], made["rule"].get("init_args", {})
    if name.startswith("fedfwd"):
        kinds = {"symba": "FedFwd SymBa", "threshold": "FedFwd threshold", "margin": "FedFwd margin"}
        bound = f" {options.get('threshold', 2)}" if options.get("loss") in ("threshold", "margin") else ""
        return "FedAvg" if rule == "Backprop" else kinds[options["loss"]] + bound
    if rule == "DirectFeedbackAlignment":
        return "DRTP" if options.get("teacher") == "target" else None
    if made["network_args"].get("hidden") != [500, 500]:
        return None
    hard = " hard negatives" if options.get("negatives") == "hard" else ""
    names = {"threshold": "FF threshold", "symba": "FF SymBa" + hard}
    return "BP" if rule == "Backprop" else names[options["loss"]]


@pytest.mark.parametrize("name", TUNING)
def test_every_method_has_as_many_trials_as_every_other(name: str):
    [count] = {len(trials) for trials in grids(name).values()}
    assert count >= 5


@pytest.mark.parametrize("name", TUNING)
def test_trials_are_judged_on_training_images_held_out(name: str):
    for run in runs(name):
        data = run.config["data"]["init_args"]
        assert (data["data"]["init_args"] if "data" in data else data)["val_size"] == 5000


@pytest.mark.parametrize("name", TUNING)
def test_the_best_rate_lies_inside_its_grid(name: str):
    found = complete(name)
    edges = {key: (min(trials), max(trials)) for key, trials in found.items()}
    assert [key for key, trials in found.items() if best(trials) in edges[key]] == []


@pytest.mark.parametrize("name", TABLES)
def test_a_table_uses_a_rate_level_with_the_best_of_the_trials(name: str):
    found = complete(f"{name.split('/')[0]}/tuning")
    for run in runs(name):
        column = run.cell.column if name.startswith("fedfwd") else "MNIST"
        if trials := found.get((method(name, run.config), column)):
            made = run.config["model"]["init_args"]
            optimizer = made["local_optimizer" if "local_optimizer" in made else "optimizer"]
            chosen = trials[optimizer["init_args"]["lr"]]
            assert chosen > trials[best(trials)] - LEVEL, (run.label, trials)
