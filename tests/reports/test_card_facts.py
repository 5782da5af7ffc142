"""What a card says beside its numbers: validation scores, runs that are in no mean, data, and the last verification."""

import json
from pathlib import Path

import pytest

from lit_fa.commands.table_jobs import missing_jobs
from lit_fa.reports.facts import facts
from lit_fa.reports.formats import entries
from lit_fa.reports.rows import rows
from lit_fa.results.compare import compare
from lit_fa.results.records import collect
from lit_fa.results.verification import Outcome, Verified, add_verified, file_of
from lit_fa.spec.expand import expand
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import load_table

MNIST = {"name": "MNIST", "licence": "CC BY-SA 3.0", "sha256": "0123456789abcdef"}


@pytest.fixture
def collected(declared, save, fill):
    def write(**changes):
        declared["also"] = [{"name": "test/loss", "unit": "nats", "better": "lower"}]
        path = save(declared)
        fill(path, "cpu", **changes)
        table = load_table(path)
        return collect(table, table.scale("cpu"), path.parent / "results" / "table1" / "cpu")

    return write


def edited(found, change) -> None:
    for file in sorted(found.all, key=lambda record: record.path):
        data = json.loads(file.path.read_text())
        change(data)
        file.path.write_text(json.dumps(data))


def again(found):
    return collect(found.table, found.scale, found.all[0].path.parent)


def test_the_score_of_held_out_data_stands_beside_every_test_score(collected):
    found = collected(validation_is_test=False)
    edited(found, lambda data: data["metrics"].update({"val/accuracy": 80.0 + data["seed"], "val/loss": 0.5}))
    compared = compare(again(found))
    [first, *_] = rows(compared, found.table)
    assert first[2] == "90.50 ± 0.71 (validation 80.50 ± 0.71)"
    assert first[8] == "0.1500 ± 0.0707 (validation 0.5000 ± 0)"
    [accuracy, loss, *_] = entries(again(found), compared)
    assert (accuracy["validation_mean"], loss["validation_mean"], loss["validation_sd"]) == (80.5, 0.5, 0.0)


def test_validation_on_the_test_set_is_no_second_score(collected):
    found = collected(validation_is_test=True)
    edited(found, lambda data: data["metrics"].update({"val/accuracy": 80.0}))
    assert rows(compare(again(found)), found.table)[0][2] == "90.50 ± 0.71"
    assert dict(facts(again(found)))["validation"] == "on the test set in 4 of 4 runs"


def test_older_records_say_that_nothing_was_recorded(collected):
    said = dict(facts(collected()))
    assert said["failed and preliminary runs"] == "0 diverged; preliminary not recorded"
    assert said["data"] == "licence and checksum not recorded for 4 of 4 runs"
    assert said["last verified"] == "never"
    assert "validation" not in said


def test_runs_that_are_in_no_mean_are_counted_with_their_time(collected):
    earlier = [{"commit": "a", "dirty": True, "wall_time_s": 300.0, "cpu_time_s": 200.0}]

    def change(data):
        if data["row"] == "FA":
            data["preliminary"] = earlier
        elif data["seed"] == 1:
            data["status"] = "diverged"

    found = collected(dataset=MNIST)
    edited(found, change)
    said = dict(facts(again(found)))
    assert said["failed and preliminary runs"] == "1 diverged, 2 s; 2 preliminary, 7 min, not recorded for 2 runs"
    assert said["data"] == "MNIST (licence CC BY-SA 3.0, SHA-256 0123456789ab)"


def test_the_last_verification_is_named(collected):
    found = collected()
    name = f"cpu/{found.ended[0].path.name}"
    add_verified(file_of(found.table), [Verified(name, "1234567890", "2026-11-28T10:00:00", Outcome.EQUAL)])
    assert dict(facts(found))["last verified"].startswith("2026-11-28, commit 1234567: 1 of 1 records")


def test_a_new_run_names_the_runs_that_it_replaces(collected):
    found = collected(cpu_time_s=7.0)
    table, scale, run = found.table, found.scale, found.runs[0]
    tree = tree_of(table)
    where = output_paths(table, scale.label, tree)
    aside = where.scratch / "tables" / "dirty" / table.paper.key / table.name / "cpu"
    aside.mkdir(parents=True)
    head = json.loads((where.results / run.file_name).read_text())
    (where.results / run.file_name).unlink()
    (aside / run.file_name).write_text(json.dumps(head | {"dirty": True, "preliminary": [{"commit": "first"}]}))
    [job], _ = missing_jobs(table, expand(table, scale), where, tree)
    assert [entry["commit"] for entry in job.record["preliminary"]] == ["first", "abcdef01"]
    assert job.record["preliminary"][1]["cpu_time_s"] == 7.0
    assert Path(job.record["path"]).name == run.file_name
