"""Base, cell, scale and seed make one config, whose id says what is computed."""

import pytest

from lit_fa.errors import UserError
from lit_fa.spec.expand import expand, resolve
from lit_fa.spec.overrides import assign, run_id
from lit_fa.spec.table import load_table


def test_base_then_cell_then_scale_then_seed(declared, save):
    declared["cells"][0]["set"] = {"trainer.max_epochs": 7, "seed_everything": 99, "data.init_args.batch_size": 64}
    table = load_table(save(declared))
    full = expand(table, table.scale("full"))[2].config
    assert (full["trainer"]["max_epochs"], full["seed_everything"], full["data"]["init_args"]["batch_size"]) == (
        7,
        1,
        64,
    )
    assert expand(table, table.scale("cpu"))[0].config["trainer"]["max_epochs"] == 10


def test_every_cell_of_the_first_seed_comes_first(declared, save):
    table = load_table(save(declared))
    order = [(run.seed, run.cell.row) for run in expand(table, table.scale("cpu"))]
    assert order == [(0, "FA"), (0, "BP"), (1, "FA"), (1, "BP")]


def test_a_dict_replaces_wholesale_and_absent_parents_are_made():
    config = {"rule": {"class_path": "FA", "init_args": {"seed": 1}}}
    assign(config, "rule", {"class_path": "BP"}, "t")
    assign(config, "a.b.c", 1, "t")
    assert config == {"rule": {"class_path": "BP"}, "a": {"b": {"c": 1}}}


@pytest.mark.parametrize("value", [3, [1], None])
def test_an_override_through_something_that_is_no_dict_names_the_key(value):
    with pytest.raises(UserError, match=r"trainer\.callbacks\.x goes through trainer\.callbacks"):
        assign({"trainer": {"callbacks": value}}, "trainer.callbacks.x", 1, "t")


@pytest.mark.parametrize("key", ["", " ", "trainer.", ".trainer", "trainer..max_epochs", "trainer .max_epochs"])
def test_an_override_with_an_empty_name_between_its_dots_is_refused(key):
    with pytest.raises(UserError, match=r"t: '.*' is no dotted name; write it as trainer\.max_epochs"):
        assign({"trainer": {}}, key, 1, "t")


def test_a_seeded_key_without_parent_is_skipped_only_with_a_question_mark(declared, save):
    table = load_table(save(declared))
    fa, bp = expand(table, table.scale("smoke"))
    assert fa.config["model"]["init_args"]["rule"]["init_args"]["seed"] == 0
    assert bp.config["model"]["init_args"]["rule"] == {"class_path": "BP"}
    declared["seeded"][-1] = declared["seeded"][-1].rstrip("?")
    table = load_table(save(declared))
    with pytest.raises(UserError, match=r"BP\|width 32: seeded: .*seed\? if some cells lack it"):
        expand(table, table.scale("smoke"))


def test_runs_do_not_share_their_configs(declared, save):
    table = load_table(save(declared))
    first, second = expand(table, table.scale("cpu"))[:2]
    first.config["data"]["init_args"]["batch_size"] = 1
    assert second.config["data"]["init_args"]["batch_size"] == table.base["data"]["init_args"]["batch_size"] == 128


@pytest.mark.parametrize(
    "change",
    [
        {"trainer": {"max_epochs": 1, "devices": 8, "accelerator": "gpu", "strategy": "ddp", "logger": True}},
        {"trainer": {"max_epochs": 1.0, "default_root_dir": "/x", "enable_progress_bar": False}},
        {"pretrain": {"trainer": {"devices": 4}, "data": {"init_args": {"root": "/y"}}}},
        {"data": {"init_args": {"root": "/y", "dataset": {"init_args": {"root": "/z"}}, "num_workers": 4}}},
    ],
)
def test_machine_and_path_do_not_change_the_id(change):
    config = {"trainer": {"max_epochs": 1}, "data": {"init_args": {"dataset": {"init_args": {}}}}}
    config["pretrain"] = {"trainer": {}, "data": {"init_args": {}}}
    assert run_id({**config, **change}) == run_id(config)


@pytest.mark.parametrize(
    "change",
    [
        {"trainer": {"max_epochs": 2}},
        {"seed_everything": 1},
        {"model": {"root": "x"}},
        {"pretrain": {"seed_everything": 1}},
    ],
)
def test_what_is_computed_changes_the_id(change):
    config = {"trainer": {"max_epochs": 1}, "seed_everything": 0}
    assert run_id({**config, **change}) != run_id(config)


def test_the_id_is_the_same_on_every_machine():
    # sha256 of {"seed_everything":3,"trainer":{"max_epochs":1}}
    assert run_id({"trainer": {"max_epochs": 1, "devices": 2}, "seed_everything": 3}) == "ca1828c37874"


def test_only_and_seeds_keep_some_runs_and_unknown_ones_are_named(declared, save):
    table = load_table(save(declared))
    kept = expand(table, table.scale("full"), only={"row": ["BP"]}, seeds=[2, 1])
    assert [(run.cell.row, run.seed) for run in kept] == [("BP", 1), ("BP", 2)]
    with pytest.raises(UserError, match="no row 'PB'; nearest: BP"):
        expand(table, table.scale("full"), only={"row": ["PB"]})
    with pytest.raises(UserError, match="no seed 7; valid: 0, 1, 2"):
        expand(table, table.scale("full"), seeds=[7])


def test_two_labels_that_make_one_file_name_are_refused(declared, save):
    declared["cells"] = [{"row": "FA"}, {"row": "FA "}]
    table = load_table(save(declared))
    with pytest.raises(UserError, match="two cells write FA__"):
        expand(table, table.scale("full"))


def test_a_value_written_as_seed_becomes_the_seed(declared, save):
    declared["cells"][0]["set"] = {"model.init_args.rule": {"class_path": "DFA", "init_args": {"seed": "$seed"}}}
    table = load_table(save(declared))
    second = expand(table, table.scale("full"))[2]
    assert second.config["model"]["init_args"]["rule"]["init_args"]["seed"] == second.seed == 1


def test_the_seeds_of_a_cell_share_the_work_of_its_config(declared, save, monkeypatch):
    """Work that grew with cells x seeds, or with its square, took most of the time of a table of 5,000 runs."""
    calls = []
    monkeypatch.setattr("lit_fa.spec.expand.assign", lambda *words: calls.append(words) or assign(*words))
    declared["seeds"] = list(range(100))
    declared["scales"]["full"]["set"] = {"trainer.max_epochs": 7}
    table = load_table(save(declared))
    runs = expand(table, table.scale("full"))
    not_seeds = [words for words in calls if words[1].removesuffix("?") not in {k.rstrip("?") for k in table.seeded}]
    assert (len(runs), len(not_seeds)) == (200, 4)
    assert [run.config for run in runs] == [resolve(table, run.cell, table.scale("full"), run.seed) for run in runs]
