"""Tuned step sizes: equal grids for all methods, no best rate at the edge of its grid, and tables that use it."""

from pathlib import Path

import pytest

from lit_fa.results.records import Collected, collect
from lit_fa.results.tuning import Arm, arms, problems
from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table

ROOT = Path(__file__).parents[2] / "paper_configs"
TUNING = ["fedfwd/tuning", "foundations/tuning"]
TABLES = ["fedfwd/table1", "fedfwd/losses", "foundations/mnist_mlp", "foundations/forward_forward"]
LEVEL = 0.5  # points of accuracy: by less, two trials may change places on another machine


def runs(name: str) -> list:
    table = load_table(ROOT / f"{name}.yaml")
    return expand(table, table.scale("cpu"), seeds=[0])


def tuned(name: str) -> Collected:
    table = load_table(ROOT / f"{name}.yaml")
    return collect(table, table.scale("cpu"), ROOT / name.split("/")[0] / "results" / "tuning" / "cpu")


def complete(name: str) -> dict[tuple[str, str], Arm]:
    """The arms, by name and column, whose every trial has been run."""
    return {(arm.name, arm.column): arm for arm in arms(tuned(name)) if not arm.missing}


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
def test_every_arm_has_as_many_trials_inside_its_grid_on_held_out_data(name: str):
    assert {problem for problem in problems(tuned(name)) if "not run" not in problem} == set()
    assert min(len(arm.scores) for arm in arms(tuned(name))) >= 5


@pytest.mark.parametrize("name", TUNING)
def test_trials_are_judged_on_training_images_held_out(name: str):
    for run in runs(name):
        data = run.config["data"]["init_args"]
        assert (data["data"]["init_args"] if "data" in data else data)["val_size"] == 5000


@pytest.mark.parametrize("name", TABLES)
def test_a_table_uses_a_rate_level_with_the_best_of_the_trials(name: str):
    found = complete(f"{name.split('/')[0]}/tuning")
    for run in runs(name):
        column = run.cell.column if name.startswith("fedfwd") else "MNIST"
        if arm := found.get((method(name, run.config), column)):
            made = run.config["model"]["init_args"]
            optimizer = made["local_optimizer" if "local_optimizer" in made else "optimizer"]
            chosen = arm.scores[optimizer["init_args"]["lr"]]
            assert chosen > arm.scores[arm.best] - LEVEL, (run.label, arm.scores)
