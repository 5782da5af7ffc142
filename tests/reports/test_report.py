"""A report says what the records say, in every format, and a card that says anything else is stale."""

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from lit_fa.commands.table import main
from lit_fa.errors import UserError
from lit_fa.reports.card import is_stale, markers
from lit_fa.reports.facts import duration, facts, hardware
from lit_fa.reports.figures import panels_of
from lit_fa.reports.formats import markdown
from lit_fa.results.compare import compare
from lit_fa.results.records import collect
from lit_fa.results.summary import number
from lit_fa.spec.figure import number_in
from lit_fa.spec.table import load_table

FIGURES = [
    {"file": "law.png", "y": "conserve/normalised", "lines": "row", "hline": {"value": 1.0, "label": "theory"}},
    {"file": "widths.png", "kind": "final", "y": "test/loss", "xscale": "log"},
]


@pytest.fixture
def card(tmp_path) -> Path:
    begin, end = markers("table1")
    (tmp_path / "README.md").write_text(f"# Card\n\n{begin}\n{end}\n\nAfter.\n")
    return tmp_path / "README.md"


def report(path, *arguments, scale="full"):
    return main(["report", str(path), "--scale", scale, *arguments])


def test_markdown_holds_the_numbers_and_the_facts(declared, save, fill, capfd):
    declared["cells"][1]["note"] = "no feedback here"
    path = save(declared)
    fill(path, "full")
    report(path, "--format", "md")
    printed = capfd.readouterr().out
    numbers = "| FA | width 32 | 91.00 ± 1.00 | ± 2.48 | 3 | 91 ± 0.1 | +0 ± 2.45 |"
    assert f"{numbers} undecided: 36 seeds would decide |" in printed
    for fact in (
        "* Implicit, arXiv:2306.01870, Table 1",
        "* seeds: 0, 1, 2; 6 of 6 runs finished",
        "* wall time, all runs: 12 s",
        "* hardware: a cpu, 2 cores, 1 thread a run, 8 GiB",
        "* commits: abcdef0",
        "* assumed: `data.init_args.batch_size`: 128; the paper is silent",
        "* BP: no feedback here",
        "* published: Table 1",
        "* command: `lit-fa table run table1.yaml --scale full`",
    ):
        assert fact in printed


def test_a_number_of_a_reduced_scale_never_stands_without_its_scale(declared, save, fill, capfd):
    path = save(declared)
    fill(path, "cpu")
    for form in ("md", "csv", "latex"):
        report(path, "--format", form, scale="cpu")
        printed = capfd.readouterr().out
        assert "not the paper's protocol" in printed
        assert "reproduced" not in printed


def test_csv_and_json_hold_unrounded_numbers(declared, save, fill, capfd, tmp_path):
    declared["also"] = [{"name": "test/loss", "unit": "nats"}]
    path = save(declared)
    fill(path, "full", accuracy=lambda run: 90.123456)
    report(path, "--format", "csv", "--json", str(tmp_path / "o" / "report.json"))
    lines = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [(line["row"], line["metric"]) for line in lines[:2]] == [("FA", "test/accuracy"), ("FA", "test/loss")]
    assert float(lines[0]["mean"]) == pytest.approx(90.123456, abs=1e-12)
    entries = json.loads((tmp_path / "o" / "report.json").read_text())
    assert entries[0]["values"] == [90.123456] * 3
    assert (entries[0]["kind"], entries[1]["verdict"], entries[0]["published"]) == ("differs", "", 91.0)


def test_a_diverged_run_is_null_in_json(declared, save, fill, tmp_path):
    path = save(declared)
    fill(path, "full", accuracy=lambda run: float("nan"))
    report(path, "--json", str(tmp_path / "report.json"))
    content = (tmp_path / "report.json").read_text()
    assert "NaN" not in content
    assert json.loads(content)[0]["verdict"] == "not finite in 3 of 3 runs"


def test_latex_is_booktabs_with_special_characters_escaped(declared, save, fill, capfd):
    declared["cells"][0]["row"] = "F_A & co"
    path = save(declared)
    fill(path, "full")
    report(path, "--format", "latex")
    printed = capfd.readouterr().out
    assert r"F\_A \& co & width 32 & 91.00 $\pm$ 1.00" in printed
    assert r"\toprule" in printed
    assert r"test/accuracy (\%)" in printed


def test_the_console_shows_every_cell(declared, save, fill, capfd):
    path = save(declared)
    fill(path, "full")
    report(path)
    printed = capfd.readouterr().out
    assert "undecided" in printed
    assert "no published number" in printed


def test_a_card_is_filled_between_its_markers_and_nothing_else_changes(declared, save, fill, card):
    path = save(declared)
    fill(path, "full")
    assert is_stale(path, card)
    report(path, "--card")
    content = card.read_text()
    assert content.startswith("# Card\n\n<!-- table:table1:begin -->\n<!-- scale: full -->\n| row |")
    assert content.endswith("\n<!-- table:table1:end -->\n\nAfter.\n")
    assert not is_stale(path, card)
    report(path, "--card")
    assert card.read_text() == content


def test_a_card_shows_several_scales_between_markers_of_their_own(declared, save, fill, tmp_path):
    path, card = save(declared), tmp_path / "README.md"
    fill(path, "full")
    fill(path, "cpu")
    pairs = [markers("table1"), markers("table1@full")]
    card.write_text("\n".join(line for pair in pairs for line in pair) + "\n")
    for scale in ("cpu", "full"):
        report(path, "--card", scale=scale)
    cpu, full = (card.read_text().split(begin)[1].split(end)[0] for begin, end in pairs)
    assert "<!-- scale: cpu -->" in cpu
    assert "<!-- scale: full -->" in full
    assert not is_stale(path, card)
    card.write_text(card.read_text().replace("91.00 ± 1.00", "92.00 ± 1.00"))  # the mean of the full scale
    assert is_stale(path, card)


@pytest.mark.parametrize("change", ["record", "table", "card", "gone"])
def test_a_card_is_stale_as_soon_as_anything_differs(declared, save, fill, card, change):
    path = save(declared)
    files = fill(path, "full")
    report(path, "--card")
    if change == "record":
        files[0].write_text(files[0].read_text().replace("90.0", "89.0"))
    elif change == "table":
        declared["cells"][0]["published"]["value"] = 92.0
        save(declared)
    elif change == "card":
        card.write_text(card.read_text().replace("91.00", "91.50"))
    else:
        files[0].unlink()
    assert is_stale(path, card)


def test_a_card_that_shows_another_scale_or_other_records_is_left_alone(declared, save, fill, card, capfd, tmp_path):
    path = save(declared)
    fill(path, "full")
    fill(path, "cpu")
    report(path, "--card")
    before = card.read_text()
    report(path, "--card", scale="cpu")
    assert "README.md is left alone: it shows the full scale; give --card" in capfd.readouterr().out
    report(path, "--card", "--out", str(tmp_path / "elsewhere"))
    assert card.read_text() == before
    report(path, "--card", str(card), scale="cpu")
    assert "scale: cpu" in card.read_text()


def test_without_being_asked_a_report_writes_nothing_and_says_so(declared, save, fill, card, capfd, tmp_path):
    declared["figures"] = FIGURES
    path = save(declared)
    fill(path, "full")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert report(path) == 0
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert capfd.readouterr().out.splitlines()[-1].startswith("nothing was written; --card updates the card")


def test_an_unknown_cost_is_left_out(declared, save, capfd):
    report(save(declared), "--format", "md", scale="cpu")
    assert "cost" not in capfd.readouterr().out


def test_what_was_written_is_said(declared, save, fill, card, capfd, tmp_path):
    declared["figures"] = FIGURES
    path = save(declared)
    fill(path, "full")
    assert report(path, "--draw") == 0
    drawn = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("drew", "wrote", "nothing"))]
    assert drawn == [f"drew {tmp_path}/results/{name}-full.png" for name in ("law", "widths")]
    assert report(path, "--card", "--json", str(tmp_path / "a.json")) == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("drew", "wrote", "nothing"))]
    assert lines == [*drawn, f"wrote the table into {card}", f"wrote {tmp_path}/a.json"]


def test_a_card_without_a_place_is_left_alone_with_the_lines_to_add(declared, save, fill, capfd, tmp_path):
    path = save(declared)
    fill(path, "full")
    (tmp_path / "README.md").write_text("by hand")
    assert report(path, "--card") == 0
    assert "README.md is left alone: it has no place for the table; add the two lines" in capfd.readouterr().out
    assert (tmp_path / "README.md").read_text() == "by hand"


def test_the_report_says_what_every_scale_costs(declared, save, fill, capfd):
    declared["scales"]["full"]["cost"] = {"gpu_hours": 12, "memory_gib": 9, "download_gib": 3, "device": "gpu"}
    path = save(declared)
    fill(path, "cpu")
    report(path, "--format", "md", scale="cpu")
    line = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("* cost: "))
    assert "cpu: " in line
    assert "records); full: 12.0 hours of GPU, 9.0 GiB of memory, 3 GiB to download, needs a GPU (declared)" in line


def test_a_card_without_markers_is_refused_with_the_lines_to_add(declared, save, tmp_path):
    (tmp_path / "OTHER.md").write_text("nothing")
    with pytest.raises(UserError, match="add the two lines <!-- table:table1:begin -->"):
        report(save(declared), "--card", str(tmp_path / "OTHER.md"))


def test_figures_are_drawn_linked_and_the_same_every_time(declared, save, fill, card, tmp_path):
    declared["figures"] = FIGURES
    path = save(declared)
    fill(path, "full")
    report(path, "--card")
    drawn = [(tmp_path / "results" / name).read_bytes() for name in ("law-full.png", "widths-full.png")]
    assert all(image.startswith(b"\x89PNG") for image in drawn)
    assert "![conserve/normalised](results/law-full.png)" in card.read_text()
    report(path, "--card")
    assert drawn == [(tmp_path / "results" / name).read_bytes() for name in ("law-full.png", "widths-full.png")]


def test_a_figure_without_data_is_said_and_not_linked(declared, save, fill, card, capfd):
    declared["figures"] = [{"file": "a.png", "y": "no/such"}]
    path = save(declared)
    fill(path, "full")
    report(path, "--card")
    assert "a.png: no record has no/such; not drawn" in capfd.readouterr().out
    assert "![" not in card.read_text()


def test_a_figure_shows_the_mean_and_deviation_over_seeds(declared, save, fill):
    declared["figures"] = [
        {"file": "a.png", "y": "conserve/normalised", "x": "epoch", "panels": "column", "lines": ["BP", "FA"]},
        {"file": "b.png", "kind": "final", "y": "test/loss", "where": {"row": ["FA"]}},
        {"file": "c.png", "kind": "bars", "y": "test/loss", "x": "row", "lines": "column"},
        {"file": "d.png", "kind": "against", "y": "test/loss", "x": "test/accuracy"},
    ]
    path = save(declared)
    fill(path, "full")
    report(path, "--card")
    table = load_table(path)
    found = collect(table, table.scale("full"), path.parent / "results/table1/full")
    curves, final, bars, against = (panels_of(found, figure) for figure in table.figures)
    assert list(curves["width 32"]) == ["BP", "FA"]
    # Steps 0, 5, ... 45 of ten an epoch: the last of epoch 1 is step 15, where the curve is 1 - 15e-4 for all seeds.
    assert curves["width 32"]["FA"][1] == pytest.approx((1, 0.9985, 0.0))
    assert final[""]["FA"] == [pytest.approx((32.0, 0.2, 0.1))]
    assert "BP" not in final[""]
    rows = list(dict.fromkeys(cell.row for cell in found.cells))
    assert [rows[x] for x, *_ in bars[""]["width 32"]] == ["FA", "BP"]
    (accuracy, loss, _), *_ = against[""]["FA"]
    assert accuracy == pytest.approx(fmean(r.value(table.metric) for r in found.of(found.cells[rows.index("FA")])))
    assert loss == pytest.approx(0.2)
    for name in ("c-full.png", "d-full.png"):
        assert (path.parent / "results" / name).read_bytes().startswith(b"\x89PNG")


def test_the_list_counts_what_is_done_and_names_broken_tables(declared, save, fill, tmp_path, capfd):
    path = save(declared)
    fill(path, "cpu")[0].unlink()
    assert main(["list", str(tmp_path), "--json", str(tmp_path / "list.json")]) == 0
    (entry,) = json.loads((tmp_path / "list.json").read_text())["tables"]
    assert entry["cells"] == 2
    printed = capfd.readouterr().out
    assert "3 done, 1 missing" in printed
    assert "0 done, 6 missing" in printed
    declared["seeds"] = []
    save(declared, "broken.yaml")
    assert main(["list", str(tmp_path)]) == 2
    assert "broken.yaml: seeds: " in capfd.readouterr().out


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(UserError, match="no table in this folder"):
        main(["list", str(tmp_path)])


def test_sixty_records_are_rendered_without_torch(declared, save, fill):
    declared["cells"] = [{"row": f"rule {i}", "column": "width 32", "set": {"a": i}} for i in range(20)]
    declared["figures"] = FIGURES
    path = save(declared)
    assert len(fill(path, "full")) == 60
    code = (
        "import sys; from lit_fa.commands.table import main; main(sys.argv[1:]);"
        "print([name for name in ('torch', 'lightning', 'torchvision', 'timm') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "report", str(path), "--scale", "full"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_numbers_durations_and_machines_read_aloud():
    printed = {97.846: "97.85", 100.0: "100.00", 0.99553: "0.9955", 0.01234: "0.01234", 3e-7: "3.00e-07", 0.0: "0"}
    assert {value: number(value) for value in printed} == printed
    assert (number(None), number(math.nan), number(-2.5e6)) == ("", "nan", "-2.50e+06")
    labels = {"width 128": 128.0, "w32": 32.0, "lr-3": 3.0, "lr -3": -3.0, "1e-3": 1e-3, "none": None}
    assert {label: number_in(label) for label in labels} == labels
    assert number(0.1, like=97.8) == "0.10"
    assert [duration(x) for x in (42, 720, 12600)] == ["42 s", "12 min", "3.5 h"]
    assert hardware({"gpu": "H100", "cpu": "x", "cores": 16, "threads": 2}) == "H100, x, 16 cores, 2 threads a run"
    assert hardware(None) == "unknown"


def test_a_note_of_one_cell_among_others_names_its_column(declared, save, tmp_path):
    declared["cells"].append({"row": "BP", "column": "width 64", "note": "wider"})
    table = load_table(save(declared))
    collected = collect(table, table.scale("full"), tmp_path / "none")
    assert "* BP, width 64: wider" in markdown(collected, compare(collected))


def test_a_note_of_a_whole_row_or_column_is_said_once(declared, save, tmp_path):
    del declared["cells"]
    columns = {"width 32": {}, "width 64": {"note": "once JPEG; small"}}
    declared["grid"] = {"rows": {"BP": {}, "FA": {"note": "slow"}, "DFA": {"note": "slow"}}, "columns": columns}
    table = load_table(save(declared))
    said = markdown(collected := collect(table, table.scale("full"), tmp_path / "none"), compare(collected))
    assert [line for line in said.splitlines() if "slow" in line or "JPEG" in line] == [
        "* width 64: once JPEG; small", "* FA, DFA: slow",
    ]  # fmt: skip


def test_cpu_seconds_are_told_of_the_records_that_have_them(declared, save, fill):
    path = save(declared)
    files = fill(path, "cpu")
    table = load_table(path)
    old = collect(table, table.scale("cpu"), files[0].parent)
    assert not any(name.startswith("CPU time") for name, _ in facts(old))  # records of schema 1
    for file, seconds in zip(files, (30.0, 40.0, None, 50.0), strict=True):
        data = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(data | {"cpu_time_s": seconds}), encoding="utf-8")
    some = dict(facts(collect(table, table.scale("cpu"), files[0].parent)))
    assert some["CPU time, the 3 runs that recorded it"] == "2 min"
    fill(path, "cpu", schema=2, cpu_time_s=10.0)
    assert dict(facts(collect(table, table.scale("cpu"), files[0].parent)))["CPU time, all runs"] == "40 s"
