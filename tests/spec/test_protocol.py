"""The protocol `converged`: what it changes in a table and its configs, and what it leaves alone."""

import pytest

from lit_fa.errors import UserError
from lit_fa.spec.command import run_command
from lit_fa.spec.expand import expand
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import load_table
from tests.table_fixtures import BASE

EARLY = "lightning.pytorch.callbacks.EarlyStopping"


def runs(path, protocol="converged", scale="cpu") -> list:
    table = load_table(path).under(protocol)
    return expand(table, table.scale(scale))


def test_a_converged_run_holds_samples_out_stops_early_and_keeps_the_best_weights(declared, save):
    declared["protocol"] = {"patience": 3, "held_out": 0.2}
    config = runs(save(declared))[0].config
    by = {"monitor": "val/accuracy", "mode": "max"}
    assert config["data"]["init_args"]["val_size"] == 0.2
    assert config["trainer"]["callbacks"] == [
        {"class_path": EARLY, "init_args": {**by, "patience": 3}},
        {"class_path": "callbacks.BestValidation", "init_args": by},
    ]
    assert config["trainer"]["max_epochs"] == 10  # the scale's, as an upper bound


def test_matched_runs_have_the_configs_that_they_had(declared, save):
    before = runs(save(declared), "matched")
    declared["protocol"] = {"patience": 3}
    after = runs(save(declared), "matched")
    assert [run.config for run in before] == [run.config for run in after]
    assert "callbacks" not in after[0].config["trainer"]
    assert {run.id for run in after}.isdisjoint(run.id for run in runs(save(declared)))


def test_folder_and_command_name_the_protocol(declared, save):
    table = load_table(save(declared)).under("converged")
    scale = table.scale("cpu")
    assert output_paths(table, scale.label, tree_of(table)).results.parts[-2:] == ("table1", "cpu-converged")
    assert run_command(table, scale).endswith("--scale cpu --protocol converged")
    assert load_table(save(declared)).labelled("cpu-converged")[1] == scale


@pytest.mark.parametrize(
    ("metric", "also", "monitored"),
    [
        ({"name": "test/accuracy", "unit": "%"}, [], {"monitor": "val/accuracy", "mode": "max"}),
        ({"name": "test/loss", "unit": "nats", "better": "lower"}, [], {"monitor": "val/loss", "mode": "min"}),
        ({"name": "angle", "unit": "degrees"}, ["test/pearson"], {"monitor": "val/pearson", "mode": "max"}),
        ({"name": "angle", "unit": "degrees"}, [], {"monitor": "val/loss", "mode": "min"}),
    ],
)
def test_runs_stop_by_the_validation_metric_of_the_table(declared, save, metric, also, monitored):
    declared["metric"] = metric
    declared |= {"also": [{"name": name, "unit": "%"} for name in also]} if also else {}
    assert load_table(save(declared)).monitored == monitored


def test_a_validation_metric_is_read_on_test_data(declared, save):
    declared["metric"] = {"name": "val/accuracy", "unit": "%", "at": "mean_last_10"}
    declared["also"] = [{"name": "val/accuracy", "unit": "%", "at": "best"}, {"name": "angle", "unit": "degrees"}]
    table = load_table(save(declared)).under("converged")
    names = [(metric.name, metric.at) for metric in (table.cells[0].metric, *table.also)]
    assert names == [("test/accuracy", "last"), ("test/accuracy", "best_validation"), ("angle", "last")]


def test_a_federation_validates_in_the_rounds_that_count(declared, save):
    declared["cells"][0]["set"] = {
        "model.init_args.validate_every": 5,
        "data": {"class_path": "datamodules.Federated", "init_args": {"data": "Digits", "clients": 4}},
    }
    declared["seeded"] = ["seed_everything"]
    config = runs(save(declared))[0].config
    assert config["model"]["init_args"]["validate_every"] == 1
    assert config["trainer"]["check_val_every_n_epoch"] == 5
    assert config["data"]["init_args"]["data"] == {"class_path": "Digits", "init_args": {"val_size": 0.1}}


def test_samples_that_a_config_holds_out_already_stay(declared, save):
    declared["cells"][0]["set"] = {"data.init_args.val_size": 5000}
    assert runs(save(declared))[0].config["data"]["init_args"]["val_size"] == 5000


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"trainer.limit_val_batches": 0}, "limit_val_batches is 0; remove it"),
        ({"trainer.callbacks": [{"class_path": EARLY}]}, "beside its own EarlyStopping"),
        ({"data.class_path": "mine.Images"}, "mine.Images is not of datamodules; hold samples out in it"),
    ],
)
def test_what_cannot_converge_on_held_out_data_is_refused(declared, save, overrides, says):
    declared["cells"][0]["set"] = overrides
    with pytest.raises(UserError, match=rf"^[^\n]*FA\|width 32: [^\n]*{says}"):
        runs(save(declared))


def test_test_data_never_stop_a_run(declared, save):
    declared["protocol"] = {"held_out": 0}
    declared["cells"][0]["set"] = {"data.init_args.validation_is_test": "allow"}
    with pytest.raises(UserError, match="on test data: remove validation_is_test: allow"):
        runs(save(declared))
    declared["cells"][0]["set"] = {}
    assert "val_size" not in runs(save(declared))[0].config["data"]["init_args"]  # validation images of its own


def test_a_table_that_reads_the_best_weights_keeps_them(declared, save):
    declared["also"] = [{"name": "test/accuracy", "unit": "%", "at": "best_validation"}]
    config = runs(save(declared), "matched")[0].config
    by = {"monitor": "val/accuracy", "mode": "max"}
    assert config["trainer"]["callbacks"] == [{"class_path": "callbacks.BestValidation", "init_args": by}]
    assert BASE["trainer"].keys() == config["trainer"].keys() - {"callbacks"}
