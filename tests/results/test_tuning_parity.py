"""Tuning parity: trials, held-out data, and the edge of the grid."""

import json

import pytest

from lit_fa.errors import UserError
from lit_fa.reports.facts import facts
from lit_fa.results.records import collect
from lit_fa.results.tuning import arms, lines, problems
from lit_fa.spec.table import load_table

FA, BP = {0.1: 90.0, 0.2: 92.0, 0.4: 91.0}, {0.1: 95.0, 0.2: 94.0, 0.4: 93.0}


def tuning(declared: dict, fa=FA, bp=BP) -> dict:
    trials = [("FA", rate) for rate in fa] + [("BP", rate) for rate in bp]
    cells = [{"row": f"{arm}, rate {rate}", "set": {"model.init_args.lr": [arm, rate]}} for arm, rate in trials]
    changes = {"tuning": "rate", "metric": {"name": "val/accuracy", "unit": "%"}, "cells": cells, "seeds": [0]}
    del declared["accept"]
    return declared | changes | {"scales": {"cpu": {}}}


@pytest.fixture
def collected(declared, save, fill):
    def write(fa=FA, bp=BP, change=lambda row, record: None):
        path = save(tuning(declared, fa, bp))
        scores = {f"{arm}, rate {rate}": s for arm, trials in (("FA", fa), ("BP", bp)) for rate, s in trials.items()}
        for file in fill(path, "cpu"):
            record = json.loads(file.read_text())
            record |= {"metrics": {"val/accuracy": scores[record["row"]]}, "validation_is_test": False}
            change(record["row"], record)
            file.write_text(json.dumps(record))
            if record["row"] == "FA, rate 0.2" and "gone" in record:
                file.unlink()
        table = load_table(path)
        return collect(table, table.scale("cpu"), path.parent / "results" / "table1" / "cpu")

    return write


def test_each_arm_is_described_in_one_line(collected):
    found = collected()
    assert lines(found) == [
        "FA: 3 trials, best at rate 0.2 (92.00 %), inside the grid",
        "BP: 3 trials, best at rate 0.1 (95.00 %), at the edge of the grid",
    ]
    assert problems(found) == ["BP: at the edge of the grid"]
    assert [value for name, value in facts(found) if name == "tuning"] == lines(found)


def test_fewer_trials_than_the_others_are_named(declared, collected):
    found = collected(fa=FA | {0.8: 1.0}, bp=FA, change=lambda row, record: None)
    assert len(problems(found)) == 1
    assert "trials where others have" in problems(found)[0]


def test_a_trial_that_diverged_is_never_the_best_and_one_that_is_not_run_is_named(collected):
    def spoil(row, record):
        if row == "FA, rate 0.2":
            record["gone"] = True
        if row == "BP, rate 0.1":
            record["status"] = "diverged"

    found = collected(change=spoil)
    assert problems(found) == ["FA: 1 not run, at the edge of the grid"]
    assert arms(found)[1].best == 0.2


def test_trials_that_were_judged_on_the_test_set_are_named(collected):
    found = collected(bp=FA, change=lambda row, record: record.update(validation_is_test="BP" in row))
    assert problems(found) == ["BP: 3 judged on the test set"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cells": [{"row": "FA, lr 0.1"}]}, "the row 'FA, lr 0.1' is not `ARM, rate NUMBER`; rename it"),
        ({"cells": [{"row": "FA, rate high"}]}, "the row 'FA, rate high' is not"),
        (
            {"metric": {"name": "test/accuracy", "unit": "%"}},
            "test/accuracy is not of held-out data; take a metric val/",
        ),
    ],
)
def test_a_table_that_is_no_tuning_table_is_refused(declared, save, change, says):
    path = save(tuning(declared) | change)
    with pytest.raises(UserError) as refused:
        load_table(path)
    assert says in str(refused.value)


def test_a_table_without_the_key_has_no_arms(declared, save, fill):
    path = save(declared)
    fill(path, "cpu")
    table = load_table(path)
    assert lines(collect(table, table.scale("cpu"), path.parent / "results" / "table1" / "cpu")) == []
