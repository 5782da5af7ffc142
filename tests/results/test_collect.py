"""Records are read back; what cannot be counted is named and never fatal."""

import json
import math

import pytest

from lit_fa.results.records import Record, collect, curves_read
from lit_fa.spec.table import Metric, load_table


def gathered(path, scale="full"):
    table = load_table(path)
    return collect(table, table.scale(scale), path.parent / "results" / table.name / scale)


def test_every_finished_record_is_found(declared, save, fill):
    path = save(declared)
    fill(path, "full")
    found = gathered(path)
    assert [record.seed for record in found.of(found.cells[0])] == [0, 1, 2]
    assert (len(found.all), found.missing, found.problems) == (6, (), ())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"id": "abc', "half-written"),
        ("", "half-written"),
        ("[]", "not a run record"),
        ('{"status": "started"}', "status is 'started'"),
        ('{"status": "finished", "id": "ffffffffffff", "seed": 0}', "the record of another run"),
        ('{"status": "finished", "metrics": {"a": "high"}}', "not numbers"),
        ('{"status": "finished", "curves": {"a": [[1, 2]]}}', "not numbers"),
        ('{"status": "finished", "curves": {"a": 3}}', "not numbers"),
        ('{"status": "finished", "metrics": []}', "not numbers"),
    ],
)
def test_a_file_that_is_no_finished_record_is_named_and_counts_as_missing(declared, save, fill, content, says):
    path = save(declared)
    broken = fill(path, "full")[0]
    broken.write_text(content)
    found = gathered(path)
    assert len(found.all) == 5
    assert len(found.missing) == 1
    assert broken.name in found.problems[0]
    assert says in found.problems[0]


def test_a_foreign_file_is_named_and_skipped(declared, save, fill):
    path = save(declared)
    first = fill(path, "full")[0]
    (first.parent / "notes.json").write_text("{}")
    found = gathered(path)
    assert len(found.all) == 6
    assert found.problems == ("notes.json: not a run of this table as it is now; skipped",)


def test_a_record_of_an_earlier_protocol_is_not_counted(declared, save, fill):
    path = save(declared)
    fill(path, "full")
    declared["cells"][0]["set"]["model.init_args.width"] = 64
    found = gathered(save(declared))
    assert len(found.missing) == 3
    assert all("not a run of this table as it is now" in problem for problem in found.problems)


def test_a_record_without_curves_is_a_record(declared, save, fill):
    path = save(declared)
    file = fill(path, "full")[0]
    data = json.loads(file.read_text())
    del data["curves"]
    file.write_text(json.dumps(data))
    assert len(gathered(path).all) == 6


def test_a_null_in_a_record_is_a_number_that_was_not_finite(declared, save, fill):
    path = save(declared)
    broken = fill(path, "full")[0]
    data = json.loads(broken.read_text())
    data["metrics"]["test/accuracy"] = None
    data["curves"]["val/accuracy"] = [[0, 0.0, None], [10, 1.0, 70.0], [20, 2.0, 60.0]]
    broken.write_text(json.dumps(data))
    found = gathered(path)
    record = next(record for record in found.all if record.path == broken)
    points = ("first", "last", "best", "median", "max_abs", "mean_last_10")
    read = {at: record.value(Metric("val/accuracy", "%", at=at)) for at in points}
    assert (found.problems, len(found.all)) == ((), 6)
    assert (read["last"], read["best"]) == (60, 70)
    assert all(math.isnan(read[at]) for at in ("first", "median", "max_abs", "mean_last_10"))
    assert math.isnan(record.value(found.table.metric))


def test_a_curve_that_was_nowhere_finite_has_no_best_point(tmp_path):
    record = Record(tmp_path, {"metrics": {}, "curves": {"a": [[0, 0.0, math.nan]]}})
    assert math.isnan(record.value(Metric("a", "%", at="best")))


def test_curves_that_are_not_asked_for_are_checked_and_not_kept(declared, save, fill):
    path = save(declared)
    first, second, *_ = fill(path, "full")
    for file, value in ((first, 1e200), (second, "x")):
        data = json.loads(file.read_text())
        data["curves"] = {"val/accuracy": [[0, 0.0, 70.0]], "other": [[0, 0.0, value]]}
        file.write_text(json.dumps(data))
    table = load_table(path)
    found = collect(table, table.scale("full"), first.parent, curves=("val/accuracy",))
    assert [*map(len, found.problems)] == [*map(len, gathered(path).problems)]
    assert "other: too large a number" in found.problems[0]
    assert "not numbers" in found.problems[1]
    read = next(record for record in found.all if record.path == first)
    assert [*read.data["curves"]] == ["val/accuracy"]
    assert read.value(Metric("val/accuracy", "%", at="best")) == 70


def test_the_curves_of_a_table_are_those_of_its_metrics_and_figures(declared, save):
    declared["also"] = [{"name": "val/loss", "unit": "nats", "at": "best"}]
    declared["figures"] = [{"file": "a.png", "y": "align/overall"}]
    assert curves_read(load_table(save(declared))) >= {"test/accuracy", "val/accuracy", "val/loss", "align/overall"}
