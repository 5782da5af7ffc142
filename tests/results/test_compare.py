"""Verdicts, as data, against numbers worked out by hand."""

import math
import re

import pytest

from lit_fa.errors import UserError
from lit_fa.reports.formats import entries, markdown
from lit_fa.reports.rows import paired_difference
from lit_fa.results.compare import Counts, Kind, Reason, compare, judge, tolerance
from lit_fa.results.records import Record, collect
from lit_fa.results.summary import Summary, summarise
from lit_fa.spec.grid import Grid, cross
from lit_fa.spec.table import Metric, Published, Scale, load_table
from lit_fa.spec.validation import validated

ACCURACY = Metric("test/accuracy", "%")
FULL = Scale("full", (0,), {})
CPU = Scale("cpu", (0,), {}, "10 of the paper's 50 epochs")


def test_mean_deviation_and_student_interval():
    summary = summarise([97.0, 98.0, 99.0], ACCURACY)
    # t(0.975, 2) = 4.302653 from a printed table; 4.302653 * 1 / sqrt(3)
    assert (summary.mean, summary.sd, summary.n) == (98.0, 1.0, 3)
    assert summary.interval == pytest.approx(2.484138, abs=1e-6)


def test_one_run_has_no_interval():
    assert summarise([97.0], ACCURACY) == Summary(ACCURACY, (97.0,), mean=97.0, sd=None, interval=None)


@pytest.mark.parametrize(
    ("published", "floor", "expected"),
    [
        (Published(98.0, "%", std=2.0, n=4), 0.0, 2 * math.sqrt(1 / 3 + 4 / 4)),
        (Published(98.0, "%"), 0.0, 2 * math.sqrt(1 / 3)),
        (Published(98.0, "%", std=2.0), 0.0, 2 * math.sqrt(1 / 3)),  # a spread over unknown n makes nothing lenient
        (Published(98.0, "%"), 5.0, 5.0),
    ],
)
def test_tolerance_is_the_floor_or_twice_the_combined_standard_error(published, floor, expected):
    assert tolerance(summarise([97.0, 98.0, 99.0], ACCURACY), published, floor) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "published", "scale", "kind", "reason"),
    [
        ([97.5], Published(97.8, "%"), FULL, Kind.REPRODUCED, None),  # exactly the floor of 0.3
        ([97.49], Published(97.8, "%"), FULL, Kind.BELOW, None),
        ([98.2], Published(97.8, "%"), FULL, Kind.ABOVE, None),
        ([97.0, 98.0, 99.0], Published(99.1, "%"), FULL, Kind.REPRODUCED, None),  # 1.1 < 2 / sqrt(3)
        ([97.0, 98.0, 99.0], Published(99.2, "%"), FULL, Kind.BELOW, None),  # 1.2 > 1.155
        ([97.6], Published(97.8, "%"), CPU, Kind.WITHIN, None),
        ([96.6], Published(97.8, "%"), CPU, Kind.BELOW, None),
        ([], Published(99.2, "%"), FULL, Kind.MISSING, Reason.NOT_RUN),
        ([97.0], None, FULL, Kind.OPEN, Reason.UNPUBLISHED),
        ([97.0], Published(0.97, "1"), FULL, Kind.OPEN, Reason.OTHER_UNIT),
        ([97.0], Published(97.0, "%", metric="test/top5"), FULL, Kind.OPEN, Reason.OTHER_METRIC),
        ([math.nan, 97.0], Published(97.0, "%"), FULL, Kind.FAILED, Reason.NOT_FINITE),
    ],
)
def test_verdict(values, published, scale, kind, reason):
    verdict = judge(summarise(values, ACCURACY), published, scale, 0.3)
    assert (verdict.kind, verdict.reason) == (kind, reason)
    assert (verdict.difference is None) == (verdict.margin is None) == (reason is not None)
    assert verdict.caveat == (CPU if scale is CPU else None)


def test_a_verdict_holds_the_numbers_that_decide_it():
    verdict = judge(summarise([97.0, 98.0, 99.0], ACCURACY), Published(99.2, "%"), CPU, 0.3)
    assert verdict.difference == pytest.approx(-1.2)
    assert verdict.margin == pytest.approx(2 / math.sqrt(3))
    assert verdict.interval == pytest.approx(2.484138, abs=1e-6)
    assert verdict.caveat is CPU


@pytest.mark.parametrize(
    ("at", "better", "value"),
    [
        ("last", "higher", 5.0),
        ("first", "higher", -20.0),
        ("best", "higher", 12.0),
        ("best", "lower", -20.0),
        ("max_abs", "lower", 20.0),
    ],
)
def test_the_metric_is_read_where_the_table_says(tmp_path, at, better, value):
    curve = [[0, 0, -20.0], [1, 0, 12.0], [2, 1, 5.0]]
    record = Record(tmp_path, {"metrics": {}, "curves": {"x": curve}})
    assert record.value(Metric("x", "%", better, at)) == value


def test_the_mean_of_the_last_ten_points(tmp_path):
    record = Record(tmp_path, {"metrics": {"x": 99.0}, "curves": {"x": [[i, i, float(i)] for i in range(20)]}})
    assert record.value(Metric("x", "%", at="mean_last_10")) == 14.5
    assert record.value(Metric("x", "%")) == 99.0
    assert record.value(Metric("y", "%")) is None


def test_a_table_is_compared_cell_by_cell(declared, save, fill):
    declared["also"] = [{"name": "test/loss", "unit": "nats", "better": "lower"}]
    path = save(declared)
    fill(path, "full", accuracy=lambda run: 90.0 + run.seed)
    table = load_table(path)
    fa, bp = compare(collect(table, table.scale("full"), path.parent / "results/table1/full"))
    # mean 91 against 91; the combined error is sqrt(1/3 + 0.01/3)
    assert (fa.summary.mean, fa.difference, fa.kind) == (91.0, 0.0, Kind.REPRODUCED)
    assert (bp.difference, bp.verdict.reason) == (None, Reason.UNPUBLISHED)
    assert fa.also[0].mean == pytest.approx(0.2)


def test_missing_seeds_are_counted_beside_the_verdict(declared, save, fill):
    path = save(declared)
    next(
        file for file in fill(path, "full", accuracy=lambda run: 91.0) if "seed2" in file.name and "FA" in file.name
    ).unlink()
    table = load_table(path)
    comparison = compare(collect(table, table.scale("full"), path.parent / "results/table1/full"))[0]
    assert (comparison.kind, comparison.counts) == (Kind.REPRODUCED, Counts(expected=3, finished=2))


def test_runs_that_did_not_log_the_metric_are_counted(declared, save, fill):
    declared["metric"]["name"] = "test/error"
    path = save(declared)
    fill(path, "full")
    table = load_table(path)
    comparison = compare(collect(table, table.scale("full"), path.parent / "results/table1/full"))[0]
    assert (comparison.kind, comparison.counts.unlogged, comparison.summary.n) == (Kind.FAILED, 3, 0)


def paired_table(declared, save, fill, accuracy):
    declared["cells"][0]["paired_with"] = "BP"
    path = save(declared)
    fill(path, "full", accuracy=accuracy)
    return load_table(path), path


def test_pairs_are_subtracted_seed_by_seed(declared, save, fill):
    # seeds differ by far more than the rules do: 60, 75, 90 for BP, and 1, 2 and 3 more for FA
    table, path = paired_table(
        declared, save, fill, lambda run: 60 + 15 * run.seed + (run.cell.row == "FA") * (1 + run.seed)
    )
    fa, bp = compare(collect(table, table.scale("full"), path.parent / "results/table1/full"))
    assert fa.paired.values == (1.0, 2.0, 3.0)
    assert fa.paired.mean == 2.0
    assert fa.paired.interval == pytest.approx(2.484138, abs=1e-6)  # as of 97, 98, 99 above
    assert bp.paired is None
    assert paired_difference(fa) == "+2.00 ± 2.48 to BP, n 3"


def test_a_label_with_a_bar_names_the_pair(declared, save, fill):
    declared["cells"][1]["row"] = "a|b"
    declared["cells"][0]["paired_with"] = "a|b|width 32"
    path = save(declared)
    fill(path, "full")
    table = load_table(path)
    fa, _ = compare(collect(table, table.scale("full"), path.parent / "results/table1/full"))
    assert paired_difference(fa).endswith(" to a|b, n 3")


def with_difference(declared, save, fill, scale, **printed):
    declared["cells"][0] |= {"paired_with": "BP", "published_difference": {"value": 2.5, "unit": "%", **printed}}
    del declared["cells"][0]["published"]
    path = save(declared)
    fill(path, scale, accuracy=lambda run: 60 + 15 * run.seed + (run.cell.row == "FA") * (1 + run.seed))
    table = load_table(path)
    return collect(table, table.scale(scale), path.parent / "results/table1" / scale)


def test_a_published_difference_stands_beside_the_measured_one_and_is_what_is_judged(declared, save, fill):
    collected = with_difference(declared, save, fill, "full", source="Table 3")
    fa, bp = compare(collected)
    assert paired_difference(fa) == "+2.00 ± 2.48 to BP, n 3; published +2.5"
    assert fa.on_pairs
    assert (fa.verdict.difference, fa.difference) == (-0.5, None)
    assert (fa.kind, bp.verdict.reason) == (Kind.REPRODUCED, Reason.UNPUBLISHED)  # 0.5 is less than 2 x 1 / sqrt(3)
    assert "* published: Table 3" in markdown(collected, [fa, bp])
    assert entries(collected, [fa])[0]["published_paired"] == 2.5


def test_a_difference_at_a_reduced_scale_is_not_comparable(declared, save, fill):
    fa, _ = compare(with_difference(declared, save, fill, "cpu"))
    assert (fa.on_pairs, fa.kind, fa.verdict.margin) == (True, Kind.WITHIN, 1.0)
    assert fa.verdict.caveat.note == "10 of the paper's 50 epochs"


def test_a_difference_in_another_unit_is_not_judged(declared, save, fill):
    fa, _ = compare(with_difference(declared, save, fill, "full", unit="degrees"))
    assert paired_difference(fa).endswith("; published +2.5 degrees")
    assert (fa.on_pairs, fa.verdict.reason) == (True, Reason.OTHER_UNIT)


def test_a_difference_from_nothing_is_refused(declared, save):
    declared["cells"][0]["published_difference"] = {"value": 2.5, "unit": "%"}
    with pytest.raises(UserError, match="of this cell from which? Add paired_with: ROW".replace("?", r"\?")):
        load_table(save(declared))


def test_numbers_of_further_metrics_stand_in_their_columns(declared, save, fill):
    declared["also"] = [{"name": "test/top5", "unit": "%"}]
    own, further = {"value": 91.0, "unit": "%"}, {"value": 99.5, "unit": "%", "std": 0.1, "metric": "test/top5"}
    declared["cells"][0]["published"] = [own, further]
    declared["cells"][1]["published"] = [further]
    path = save(declared)
    fill(path, "full")
    table = load_table(path)
    collected = collect(table, table.scale("full"), path.parent / "results/table1/full")
    fa, bp = compare(collected)
    assert (fa.cell.published.value, bp.verdict.reason) == (91.0, Reason.UNPUBLISHED)
    assert markdown(collected, [fa, bp]).count("published 99.5 ± 0.1 |") == 2
    assert entries(collected, [fa])[1]["published"] == 99.5
    declared["cells"][0]["published"] = [own, own]
    with pytest.raises(UserError, match="2 numbers for one metric; for a further one write metric: valid: test/top5"):
        load_table(save(declared))


def test_a_grid_has_published_differences():
    rows = {"a": {"set": {}}, "b": {"set": {"x": 1}, "paired_with": "a"}}
    printed = {"b|one": {"value": 2.5, "unit": "%"}}
    grid = validated(Grid, {"rows": rows, "columns": {"one": {}}, "published_difference": printed}, "grid")
    assert [cell.published_difference for cell in cross(grid, ["full"], "grid")] == [None, Published(2.5, "%")]


def test_only_seeds_that_both_have_are_paired(declared, save, fill):
    table, path = paired_table(declared, save, fill, lambda run: 90.0 + run.seed - (run.cell.row == "FA"))
    folder = path.parent / "results/table1/full"
    next(file for file in folder.iterdir() if "BP" in file.name and "seed1" in file.name).unlink()
    fa, _ = compare(collect(table, table.scale("full"), folder))
    assert (fa.paired.n, fa.paired.mean, fa.paired.sd) == (2, -1.0, 0.0)


@pytest.mark.parametrize(("name", "says"), [("BB", "'BP|width 32'"), ("FA", "a cell is paired with another")])
def test_a_pair_that_is_not_there_is_refused(declared, save, name, says):
    declared["cells"][0]["paired_with"] = name
    with pytest.raises(UserError, match=re.escape(says) if name == "FA" else "BP"):
        load_table(save(declared))


def test_a_grid_pairs_rows_inside_a_column():
    rows = {"a": {"set": {}}, "b": {"set": {"x": 1}, "paired_with": "a"}}
    grid = validated(Grid, {"rows": rows, "columns": {"one": {}, "two": {}}}, "grid")
    assert [cell.paired_with for cell in cross(grid, ["full"], "grid")] == ["", "", "a", "a"]


def test_the_report_has_a_column_of_pairs_only_where_there_are_some(declared, save, fill):
    table, path = paired_table(declared, save, fill, lambda run: 90.0)
    collected = collect(table, table.scale("full"), path.parent / "results/table1/full")
    text = markdown(collected, compare(collected))
    assert "less its pair" in text
    assert "| 0 ± 0 to BP, n 3 |" in text.replace("+", "")
    del declared["cells"][0]["paired_with"]
    plain = load_table(save(declared, "table2.yaml"))
    assert "less its pair" not in markdown(collect(plain, plain.scale("full"), path.parent), [])
