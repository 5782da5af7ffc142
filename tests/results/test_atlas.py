"""The atlas sets measured beside published numbers of the same rule, network family and data set."""

import csv
import json
import re
from dataclasses import replace

import pytest

from lit_fa import plot_style
from lit_fa.__main__ import main
from lit_fa.commands.atlas import build
from lit_fa.reports import scatter
from lit_fa.results.atlas import Entry, NominalCell, distinct
from lit_fa.results.nominal import Nominal, setup
from lit_fa.results.verdict import Kind

MODEL = {"class_path": "lit_fa.modules.Classifier", "init_args": {"network": "mlp"}}
CLAIMS = """
claims:
  - {source: DLL, where: table 1, read: paper, network: MLP, layers: 784-1024-10, epochs: "200", runs: 4,
     selection: best on test, values: {FA: {MNIST: [85.0, 0.1]}, DFA: {MNIST: 97.0}}}
"""


@pytest.fixture
def folder(declared, save, fill, tmp_path):
    """A table with runs at its full scale, and a file of claims."""
    declared["cells"][0]["set"] = {
        "model": MODEL | {"init_args": {"network": "mlp", "rule": rule("FeedbackAlignment")}}
    }
    declared["cells"][1]["set"] = {"model": MODEL | {"init_args": {"network": "mlp", "rule": rule("Backprop")}}}
    fill(save(declared), "full", accuracy=lambda run: 90.9 + 0.1 * run.seed)
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    return tmp_path


def rule(name, **options):
    return {"class_path": f"lit_fa.rules.{name}", "init_args": options}


def named(atlas):
    return {(cell.nominal.rule, cell.nominal.data): cell for cell in atlas.cells}


def test_a_cell_has_ours_the_tables_number_and_the_claims(folder):
    atlas, problems = build(folder)
    cell = named(atlas)["FA", "MNIST"]
    (ours,) = cell.of("measured")
    assert problems == []
    assert (ours.value, ours.runs, ours.scale, ours.kind) == (pytest.approx(91.0), 3, "full", "agrees")
    assert sorted(entry.value for entry in cell.of("published")) == [85.0, 91.0]
    assert len(ours.links) == 3


def test_converged_runs_are_entries_of_their_own(folder, fill):
    fill(folder / "table1.yaml", "full-converged", accuracy=lambda run: 80.0 + run.seed)
    by_scale = {entry.scale: entry for entry in named(build(folder)[0])["FA", "MNIST"].of("measured")}
    assert {scale: entry.value for scale, entry in by_scale.items()} == pytest.approx(
        {"full": 91.0, "full-converged": 81.0}
    )
    assert by_scale["full-converged"].epochs == f"to convergence, at most {by_scale['full'].epochs}"
    assert len(named(build(folder)[0])["FA", "MNIST"].of("published")) == 2


def test_claims_of_different_papers_far_apart_contradict_each_other(folder):
    cells = named(build(folder)[0])
    assert [(low.value, high.value) for low, high in cells["FA", "MNIST"].contradictions] == [(85.0, 91.0)]
    assert cells["BP", "MNIST"].contradictions == []


def entry(value, interval, paper):
    return Entry("published", Nominal("FA", "MLP", "MNIST"), "", "", "", "", value, None, interval, 3, "", paper=paper)


@pytest.mark.parametrize(
    ("other", "count"),
    [(entry(98.0, None, "B"), 1), (entry(96.9, None, "B"), 0), (entry(98.0, 1.2, "B"), 0), (entry(98.0, None, "A"), 0)],
)
def test_numbers_contradict_each_other_one_point_beyond_their_intervals(other, count):
    cell = NominalCell(other.nominal, (entry(96.0, None, "A"), other))
    assert len(cell.contradictions) == count


def test_a_number_that_two_tables_of_a_paper_print_is_one_entry():
    twice, other = entry(96.0, None, "A"), entry(96.0, None, "B")
    assert distinct([twice, replace(twice, source="table 2"), other]) == [twice, other]


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        ({"rule": rule("DirectFeedbackAlignment", teacher="target")}, "datamodules.MNIST", "DRTP MLP MNIST"),
        ({"rule": rule("FeedbackAlignment", source="sign")}, "datamodules.CIFAR10", "sign symmetry MLP CIFAR-10"),
        (
            {"rule": rule("FeedbackAlignment", source=rule("KolenPollackFeedback"))},
            "datamodules.FashionMNIST",
            "Kolen-Pollack MLP Fashion-MNIST",
        ),
        ({"rule": rule("MyRule"), "network": "resnet18"}, "datamodules.SVHN", "MyRule ResNet SVHN"),
        (
            {"rule": rule("Backprop"), "algorithm": {"class_path": "lit_fa.federated.Scaffold"}},
            {"class_path": "datamodules.Federated", "init_args": {"data": {"class_path": "datamodules.MNIST"}}},
            "BP with Scaffold MLP MNIST",
        ),
        (
            {"rule": rule("Backprop")},
            {"class_path": "datamodules.GLUE", "init_args": {"task": "MRPC"}},
            "BP MLP MRPC",
        ),
    ],
)
def test_a_config_has_the_names_that_papers_share(model, data, expected):
    nominal = setup({"model": {"init_args": {"network": "mlp"} | model}, "data": data}).nominal
    assert f"{nominal.rule} {nominal.network} {nominal.data}" == expected
    assert nominal.federated == ("Federated" in str(data))


def test_the_command_writes_a_page_csv_and_parquet(folder, capsys):
    out = folder / "out"
    assert main(["atlas", str(folder), "--write", str(out)]) == 0
    rows = list(csv.DictReader((out / "atlas.csv").open(encoding="utf-8")))
    page = (out / "atlas.html").read_text(encoding="utf-8")
    import pandas as pd

    assert [row["value"] for row in rows if row["rule"] == "DFA"] == ["97.0"]
    assert len(pd.read_parquet(out / "atlas.parquet")) == len(rows) == 5
    assert '<tr data-measured="1" data-contradicted="1">' in page
    point = "<title>FA, width 32 (conservation/table1): published 91.00, measured 91.00 ± 0.25, scale full</title>"
    assert page.count(point) == 2  # in both panels


def test_a_label_cannot_bring_markup_into_the_page(folder):
    hostile = CLAIMS.replace("DLL", "<script>x</script>")
    (folder / "claims.yaml").write_text(hostile)
    assert main(["atlas", str(folder), "--write", str(folder / "out"), "--format", "html"]) == 0
    assert "<script>x" not in (folder / "out" / "atlas.html").read_text(encoding="utf-8")


def test_a_broken_submission_is_named_and_the_rest_stands(folder, capsys):
    (folder / "imported").mkdir()
    (folder / "imported" / "x.json").write_text("{")
    assert main(["atlas", str(folder), "--write", str(folder / "out"), "--format", "csv"]) == 2
    assert "x.json: cannot be read" in capsys.readouterr().out
    assert (folder / "out" / "atlas.csv").is_file()


def test_tuning_tables_and_other_metrics_are_left_to_their_tables(declared, save, fill, tmp_path):
    declared["metric"] = {"name": "align/angle", "unit": "degrees"}
    for cell in declared["cells"]:
        cell.pop("published", None)
    fill(save(declared), "full")
    assert build(tmp_path)[0].cells == ()


def test_json_of_a_submission_is_shown_apart_from_ours(folder, declared, save):
    record = json.loads(next((folder / "results").rglob("FA__*seed0*.json")).read_text())
    from lit_fa.spec.expand import expand
    from lit_fa.spec.table import load_table

    table = load_table(folder / "table1.yaml")
    run = next(run for run in expand(table, table.scale("full")) if run.id == record["id"])
    submission = {"submission": "second lab", "from": "a group", "records": [record | {"config": run.config}]}
    (folder / "imported").mkdir()
    (folder / "imported" / "second-lab.json").write_text(json.dumps(submission))
    cell = named(build(folder)[0])["FA", "MNIST"]
    assert [(one.value, one.source) for one in cell.of("imported")] == [(pytest.approx(90.9), "second lab, a group")]
    assert len(cell.of("measured")) == 1


def pairs():
    """Measured and published numbers of every kind, in percent."""
    kinds = [
        (98.0, Kind.AGREES, "full"),
        (40.0, Kind.DIFFERS, "full"),
        (97.0, Kind.UNDECIDED, "full"),
        (95.0, None, "cpu"),
    ]
    return [
        (replace(entry(v, 0.2, ""), origin="measured", kind=kind, scale=scale, runs=3, label=f"{v}"), v + 0.5)
        for v, kind, scale in kinds
    ]


def test_the_scatter_shows_a_verdict_by_colour_and_by_shape(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(plot_style, "save", lambda figure, part, ending: (kept.append(figure), part.write_bytes(b"")))
    scatter.draw(pairs(), tmp_path / "atlas.svg")
    whole, top = kept[0].axes
    points = [line for line in whole.lines if line.get_gid()]
    assert len(points) == 4
    assert len([line for line in top.lines if line.get_gid()]) == 3  # 40 % lies below
    assert len({line.get_marker() for line in points}) == 3  # hollow and filled circles
    assert len({(line.get_color(), line.get_markerfacecolor()) for line in points}) == 4
    assert {line.get_xdata()[0] - line.get_ydata()[0] for line in points} == {0.5}
    (box,) = kept[0].legends
    assert "4 cells of tables, each the mean of 3 runs" in box.get_title().get_text()
    labels = {text.get_text() for text in box.get_texts()}
    assert {"agrees (1)", "refuted (1)"} <= labels
    assert (whole.get_xlabel(), whole.get_ylabel()) == ("published accuracy, %", "measured accuracy, %")


def test_the_scatter_is_the_same_bytes_twice(tmp_path):
    for name in ("a", "b"):
        scatter.draw(pairs(), tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_hostile_label_is_text_in_the_scatter():
    hostile = [(replace(one, label="<script>x</script>"), other) for one, other in pairs()]
    image = scatter.images(hostile, "key")[0]
    assert "<script>" not in image
    assert image.count("&lt;script&gt;x") == 4


def test_the_atlas_leads_with_what_is_settled(folder):
    assert main(["atlas", str(folder), "--write", str(folder / "out"), "--format", "html"]) == 0
    page = (folder / "out" / "atlas.html").read_text(encoding="utf-8")
    assert re.findall(r'<li class="badge (\w*)"><b>1</b>', page) == ["agrees"]
    assert "<b>0</b>" not in page
