"""Cells compared with published numbers: what is compared, in which rows, and what rules a verdict out."""

import json
import re
from dataclasses import replace

import pytest

from lit_fa.errors import UserError
from lit_fa.reports.formats import entries, markdown
from lit_fa.reports.rows import paired_difference, verdict_text
from lit_fa.results.compare import Counts, compare
from lit_fa.results.records import Record, collect
from lit_fa.results.summary import Summary, summarise
from lit_fa.results.verdict import Kind, Reason
from lit_fa.spec.grid import Grid, cross
from lit_fa.spec.table import Metric, Published, load_table
from lit_fa.spec.validation import validated

ACCURACY = Metric("test/accuracy", "%")


def test_mean_deviation_and_student_interval():
    summary = summarise([97.0, 98.0, 99.0], ACCURACY)
    # t(0.975, 2) = 4.302653 from a printed table; 4.302653 * 1 / sqrt(3)
    assert (summary.mean, summary.sd, summary.n) == (98.0, 1.0, 3)
    assert summary.interval == pytest.approx(2.484138, abs=1e-6)


def test_one_run_has_no_interval():
    assert summarise([97.0], ACCURACY) == Summary(ACCURACY, (97.0,), mean=97.0, sd=None, interval=None)


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
    # mean 91 against 91; the combined error sqrt(1/3 + 0.01/3) is too large for a margin of 0.3
    assert (fa.summary.mean, fa.difference, fa.kind) == (91.0, 0.0, Kind.UNDECIDED)
    assert (bp.difference, bp.verdict.reason) == (None, Reason.UNPUBLISHED)
    assert fa.also[0].mean == pytest.approx(0.2)


def test_missing_seeds_are_counted_beside_the_verdict(declared, save, fill):
    path = save(declared)
    next(
        file for file in fill(path, "full", accuracy=lambda run: 91.0) if "seed2" in file.name and "FA" in file.name
    ).unlink()
    table = load_table(path)
    comparison = compare(collect(table, table.scale("full"), path.parent / "results/table1/full"))[0]
    assert (comparison.kind, comparison.counts) == (Kind.AGREES, Counts(expected=3, finished=2))


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
    # t = 2 / (1 / sqrt(3)) = 3.464 with 2 degrees of freedom: p = 0.0742 from a printed table
    assert (fa.contrast.p, fa.contrast.holm) == (pytest.approx(0.0742, abs=1e-4),) * 2
    assert paired_difference(fa) == "+2.00 ± 2.48 to BP, n 3 (p 0.074, Holm 0.074)"


def test_pairs_from_different_pretrained_weights_are_counted(declared, save, fill):
    declared["cells"][0]["paired_with"] = "BP"
    path = save(declared)
    for file in fill(path, "full"):
        record = json.loads(file.read_text())
        other = record["row"] == "FA" and record["seed"] == 1
        file.write_text(json.dumps(record | {"pretrained": {"digest": "b" if other else "a"}}))
    table = load_table(path)
    fa = compare(collect(table, table.scale("full"), path.parent / "results/table1/full"))[0]
    assert fa.counts.unequal_starts == 1
    assert ", n 3, 1 from different pre-trained weights (" in paired_difference(fa)


def test_a_label_with_a_bar_names_the_pair(declared, save, fill):
    declared["cells"][1]["row"] = "a|b"
    declared["cells"][0]["paired_with"] = "a|b|width 32"
    path = save(declared)
    fill(path, "full")
    table = load_table(path)
    fa, _ = compare(collect(table, table.scale("full"), path.parent / "results/table1/full"))
    assert " to a|b, n 3 (" in paired_difference(fa)


def with_difference(declared, save, fill, scale, **printed):
    declared["cells"][0] |= {"paired_with": "BP", "published_difference": {"value": 2.5, "unit": "%", **printed}}
    del declared["cells"][0]["published"]
    path = save(declared)
    fill(path, scale, accuracy=lambda run: 60 + 15 * run.seed + (run.cell.row == "FA") * (1 + run.seed))
    table = load_table(path)
    return collect(table, table.scale(scale), path.parent / "results/table1" / scale)


def test_a_published_difference_is_a_row_of_its_own_judged_by_the_paired_runs(declared, save, fill):
    collected = with_difference(declared, save, fill, "full", source="Table 3")
    fa, difference, bp = compare(collected)
    assert (fa.verdict.reason, bp.verdict.reason) == (Reason.UNPUBLISHED, Reason.UNPUBLISHED)
    assert (difference.of_difference, difference.summary.values, difference.difference) == (True, (1.0, 2.0, 3.0), -0.5)
    assert (difference.kind, difference.contrast) == (Kind.UNDECIDABLE, None)  # the spread of 1 is above the margin
    assert "* published: Table 3" in markdown(collected, [fa, difference, bp])
    entry = entries(collected, [difference])[0]
    assert (entry["row"], entry["published"], entry["of_difference"]) == ("FA less BP", 2.5, True)


def test_a_number_at_a_reduced_scale_has_no_verdict_and_no_sign(declared, save, fill):
    collected = with_difference(declared, save, fill, "cpu")
    _, difference, _ = compare(collected)
    assert (difference.kind, difference.verdict.reason, difference.difference) == (Kind.OPEN, Reason.REDUCED, None)
    entry = entries(collected, [difference])[0]
    assert (entry["verdict"], entry["difference"], entry["kind"]) == ("not the paper's protocol", None, "open")


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ({"unit": "degrees"}, Reason.OTHER_UNIT),
        ({"metric": "test/top5"}, Reason.OTHER_METRIC),
        ({"at": "best"}, Reason.OTHER_POINT),
        ({"protocol": "500 epochs"}, Reason.OTHER_PROTOCOL),
    ],
)
def test_a_number_of_another_kind_is_not_judged(declared, save, fill, printed, reason):
    _, difference, _ = compare(with_difference(declared, save, fill, "full", **printed))
    assert (difference.kind, difference.verdict.reason) == (Kind.OPEN, reason)


def test_a_difference_whose_pair_has_not_run_says_so(declared, save, fill):
    collected = with_difference(declared, save, fill, "full")
    del collected.records["BP|width 32"]
    assert compare(collected)[1].verdict.reason is Reason.PAIR_NOT_RUN


def test_a_difference_has_no_verdict_if_a_run_of_the_pair_has_diverged(declared, save, fill):
    collected = with_difference(declared, save, fill, "full", std=0.1, n=3)
    *kept, lost = collected.records["BP|width 32"]
    record = replace(lost, data=lost.data | {"status": "diverged", "diverged": {"step": 3}})
    collected.records["BP|width 32"], collected.diverged["BP|width 32"] = tuple(kept), (record,)
    _, difference, _ = compare(collected)
    assert (difference.kind, difference.counts.diverged, difference.counts.finished) == (Kind.FAILED, 1, 2)
    assert verdict_text(difference, collected.table).startswith("diverged in 1 of 3; mean of 2 that did not diverge: ")


def test_readings_that_give_a_number_two_values_are_refused(declared, save):
    for cell, value in zip(declared["cells"], (91.0, 95.0), strict=True):
        cell |= {"published": {"value": value, "unit": "%"}, "reading_of": "the number"}
    with pytest.raises(UserError, match="read one published number, 'the number', as 91 % and 95 %"):
        load_table(save(declared))


def test_a_further_number_at_another_point_or_of_another_protocol_says_so(declared, save, fill):
    declared["also"] = [{"name": "test/loss", "unit": "nats"}]
    own, further = {"value": 91.0, "unit": "%"}, {"value": 1.0, "unit": "bits", "metric": "test/loss", "at": "best"}
    declared["cells"][0]["published"] = [own, further | {"protocol": "converged"}]
    path = save(declared)
    fill(path, "full")
    table = load_table(path)
    collected = collect(table, table.scale("full"), path.parent / "results/table1/full")
    assert "published 1 bits (best, converged) |" in markdown(collected, compare(collected))


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


@pytest.mark.parametrize(
    ("constant", "reason"),
    [(59.0, None), (89.7, Reason.NO_POWER), ({"width 32": 59.0}, None), ({}, None)],
)
def test_without_a_control_that_beats_a_constant_there_is_no_verdict(declared, save, fill, constant, reason):
    declared["control"] = {"row": "BP", "constant": constant}
    path = save(declared)
    fill(path, "full", accuracy=lambda run: 90.0 + 0.1 * run.seed)  # the bound of BP's mean is 90.1 - 0.169
    table = load_table(path)
    collected = collect(table, table.scale("full"), path.parent / "results/table1/full")
    assert compare(collected)[0].verdict.reason is reason
    collected.records["BP|width 32"] = ()
    assert compare(collected)[0].verdict.reason is (Reason.CONTROL_NOT_RUN if constant else None)


def test_a_control_that_is_not_in_the_table_is_refused(declared, save):
    declared["control"] = {"row": "BPP", "constant": 10}
    with pytest.raises(UserError, match=r"control\.row: unknown 'BPP'; nearest: BP"):
        load_table(save(declared))
    declared["control"] = {"row": "BP", "constant": {"width 33": 10}}
    with pytest.raises(UserError, match=r"control\.constant: unknown 'width 33'; nearest: width 32"):
        load_table(save(declared))


def test_readings_of_one_number_count_as_one_test(declared, save, fill):
    cells = [
        {**declared["cells"][0], "row": f"FA {i}", "set": {"model.init_args.width": i}, "reading_of": "FA"}
        for i in range(2)
    ]
    other = {**declared["cells"][0], "row": "sign", "set": {"model.init_args.width": 9}}
    declared["cells"] = [*cells, other]
    path = save(declared)
    fill(path, "full", accuracy=lambda run: 91.0 + 0.05 * run.seed + (run.cell.row == "FA 1"))
    table = load_table(path)
    rows = compare(collect(table, table.scale("full"), path.parent / "results/table1/full"))
    first, second, sign = (row.verdict for row in rows)
    assert first.agrees.p == 2 * first.evidence.p_agrees  # two readings
    assert sign.agrees.p == sign.evidence.p_agrees
    # two numbers: the smaller of the two p-values is doubled
    assert sign.agrees.holm == min(1, 2 * sign.agrees.p)
    assert first.agrees.holm == max(first.agrees.p, sign.agrees.holm)
    assert second.kind is Kind.DIFFERS
    assert second.differs.p == 2 * second.evidence.p_differs


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
    assert "| 0 ± 0 to BP, n 3 (p 1, Holm 1) |" in text.replace("+", "")
    del declared["cells"][0]["paired_with"]
    plain = load_table(save(declared, "table2.yaml"))
    assert "less its pair" not in markdown(collect(plain, plain.scale("full"), path.parent), [])
