"""A sweep file is read as W&B reads it; the shipped ones are valid to W&B's own schema, where it is installed."""

# ruff: noqa: F401, F811 (fixtures of a sweep, in place of those of a table)

from pathlib import Path

import pytest
import yaml

from lit_fa.config.yaml_reader import load
from lit_fa.errors import UserError
from lit_fa.spec.sweep import load_sweep
from lit_fa.spec.sweep_command import flags
from tests.sweep_fixtures import declared, save

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "paper_configs").glob("*/sweep_*.yaml"))


def test_a_grid_turns_the_last_name_fastest(declared, save):
    sweep = load_sweep(save(declared))
    points = [tuple(sweep.values(point).values()) for point in sweep.grid()]
    assert points == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2), (0.3, 1), (0.3, 2)]


def test_words_are_read_as_those_of_w_and_bs_agent(declared, save):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args  # takes seconds

    declared["parameters"] |= {
        "flag": {"value": True},
        "nothing": {"value": None},
        "rule": {"values": [{"class_path": "a.B", "init_args": {"a": None}}]},
    }
    sweep = load_sweep(save(declared))
    values = sweep.nested(sweep.values(sweep.grid()[0]))
    theirs = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    names, words = zip(*(word.split("=", 1) for word in flags(values)), strict=True)
    its_names, its_words = zip(*(word.split("=", 1) for word in theirs["args"]), strict=True)
    assert names == its_names
    assert [*map(load, words)] == [*map(load, its_words)] == [*values.values()]
    before, after = sweep.command
    command = create_sweep_command(yaml.safe_load(sweep.path.read_text())["command"])
    assert [w for w in command if not w.startswith("${")] == ["fit", *before, *after]


def test_a_trial_is_named_by_what_it_computes(declared, save):
    first = load_sweep(save(declared))
    before = first.trial_id({"lr": 1.0})
    declared["command"].insert(5, "--trainer.logger=lightning.pytorch.loggers.WandbLogger")
    assert load_sweep(save(declared)).trial_id({"lr": 1}) == before
    (Path.cwd() / "base.yaml").write_text("trainer: {max_epochs: 2}\n")
    assert load_sweep(save(declared)).trial_id({"lr": 1}) != before


def test_a_changed_space_is_another_study(declared, save):
    before = load_sweep(save(declared)).id
    declared["run_cap"], declared["description"] = 3, "the same"
    assert load_sweep(save(declared)).id == before
    declared["parameters"]["lr"]["values"].append(0.4)
    assert load_sweep(save(declared)).id != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "byes"}, "method: unknown 'byes'; nearest: bayes"),
        ({"scheduler": {"engine": "ax"}}, "unknown key 'scheduler'"),
        ({"parameters": {}}, "parameters: is empty"),
        ({"parameters": {"lr": {"value": 1}}}, "all are constant"),
        (
            {"parameters": {"lr": {"min": 0.1, "max": 1.0}}},
            "lr: a grid has values, int_uniform or q_uniform",
        ),
        ({"parameters": {"l r": {"values": [1, 2]}}}, "a name has letters"),
        ({"parameters": {"a..b": {"values": [1, 2]}}}, "a name has letters"),
        ({"metric": {"name": " "}}, "' ' is no name"),
        ({"command": ["lit-fa", "fit", "--config", "a\nb", "${args}"]}, "there is no file a b here"),
        ({"command": ["lit-fa", "fit", "--config", "x" * 5000, "${args}"]}, "there is no file xxx"),
        ({"parameters": {"a.b": {"values": [1, 2]}, "a": {"parameters": {"b": {"value": 1}}}}}, "a.b is there twice"),
        ({"method": "bayes", "metric": {}}, "the key 'name' is missing"),
        ({"metric": {"name": "a", "goal": "max"}}, "metric.goal: unknown 'max'; nearest: maximize"),
        ({"early_terminate": {"type": "hyperband"}}, "the key 'max_iter' is missing"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 2, "s": 2}}, "leaves no band at eta 3"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1.5}}, "eta: 1.5 is too small"),
        ({"command": ["python", "train.py", "${args}"]}, "a trial is one run of lit-fa; write"),
        ({"command": ["lit-fa", "fit", "--config", "base.yaml"]}, "a trial is one run of lit-fa; write"),
        ({"command": ["lit-fa", "fit", "--config", "gone.yaml", "${args}"]}, "there is no file gone.yaml here"),
    ],
)
def test_a_bad_sweep_is_one_line(declared, save, change, said):
    path = save(declared | change)
    with pytest.raises(UserError) as error:
        load_sweep(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_bayes_needs_a_metric_and_the_others_take_a_validation_metric(declared, save):
    del declared["metric"]
    assert load_sweep(save(declared)).metric.name == "val/accuracy"
    with pytest.raises(UserError, match="bayes and early_terminate need one"):
        load_sweep(save(declared | {"method": "bayes"}))


def test_exponents_taken_for_limits_are_remarked_on(declared, save):
    lr = {"distribution": "log_uniform", "min": -5, "max": 0}
    sweep = load_sweep(save(declared | {"method": "random", "parameters": {"lr": lr}}))
    assert sweep.notes == ("lr: log_uniform takes exponents of e; for limits write log_uniform_values",)


@pytest.mark.parametrize("path", [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in SHIPPED])
def test_a_shipped_sweep_reads_and_does_not_choose_by_the_test_set(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = load_sweep(path)
    assert sweep.metric.name.startswith("val/")
    assert sweep.notes == ()
    held_out = [word for word in (*sweep.command[0], *map(Path.read_text, sweep.configs)) if "val_size" in word]
    assert held_out


@pytest.mark.parametrize("path", [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in SHIPPED])
def test_a_shipped_sweep_is_valid_to_w_and_bs_own_schema(path):
    config = pytest.importorskip("sweeps.config", reason="pip install --no-deps sweeps jsonschema jsonref")
    assert config.schema_violations_from_proposed_config(yaml.safe_load(path.read_text())) == []


def test_every_paper_has_a_sweep():
    papers = {path.name for path in (ROOT / "paper_configs").iterdir() if (path / "base.yaml").is_file()}
    assert {path.parent.name for path in SHIPPED} == papers
