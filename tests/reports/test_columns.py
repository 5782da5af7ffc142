"""Chosen columns: the same names in every format, in the order of the choice, and an unknown one refused."""

import csv
import io
import re

import pytest

from lit_fa.__main__ import main as lit_fa
from lit_fa.commands.table import main
from lit_fa.reports.card import is_stale, markers
from lit_fa.reports.columns import names, places
from lit_fa.reports.rows import headers
from lit_fa.spec.table import load_table
from tests.reports.page_parser import Page


@pytest.fixture
def table(declared, save, fill):
    declared["also"] = [{"name": "test/loss", "unit": "nats"}]
    path = save(declared)
    fill(path, "full")
    return path


def printed(capfd, path, form: str, columns: str) -> str:
    capfd.readouterr()
    assert main(["report", str(path), "--scale", "full", "--format", form, "--columns", columns]) == 0
    return capfd.readouterr().out


def test_markdown_has_the_chosen_columns_in_their_order(table, capfd):
    lines = printed(capfd, table, "md", "value,row,test/loss").splitlines()
    assert "| test/accuracy (%) | row | test/loss (nats) |" in lines
    assert "| 91.00 ± 1.00 | FA | 0.2000 ± 0.1000 |" in lines


def test_latex_has_a_letter_for_each_chosen_column(table, capfd):
    text = printed(capfd, table, "latex", "row,verdict,n")
    assert text.startswith("\\begin{tabular}{llr}\n\\toprule\nrow & verdict & n \\\\\n")
    assert all(line.count("&") == 2 for line in text.splitlines() if line.endswith(r" \\"))


def test_the_console_has_the_chosen_columns(table, capfd):
    text = printed(capfd, table, "console", "row,value")
    assert "91.00 ± 1.00" in text
    assert "verdict" not in text


def test_csv_has_the_fields_of_the_chosen_columns_and_lines_of_their_metrics(table, capfd):
    lines = [*csv.DictReader(io.StringIO(printed(capfd, table, "csv", "row,value,n")))]
    assert [*lines[0]] == ["row", "metric", "unit", "at", "mean", "sd", "n", "expected"]
    assert {line["metric"] for line in lines} == {"test/accuracy"}
    lines = [*csv.DictReader(io.StringIO(printed(capfd, table, "csv", "row,test/loss")))]
    assert {line["metric"] for line in lines} == {"test/loss"}
    assert float(lines[0]["mean"]) == pytest.approx(0.2)
    lines = [*csv.DictReader(io.StringIO(printed(capfd, table, "csv", "row,column")))]
    assert lines[0] == {"row": "FA", "column": "width 32"}
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("row,verdikt", "--columns: no table has a column 'verdikt'; nearest: verdict"),
        ("test/los", "--columns: no table has a column 'test/los'; nearest: test/loss"),
        ("pair", "--columns: no table has a column 'pair'"),
    ],
)
def test_an_unknown_column_is_one_line_with_the_nearest_and_nothing_is_printed(table, capfd, chosen, said):
    assert lit_fa(["table", "report", str(table), "--scale", "full", "--columns", chosen]) == 2
    told = capfd.readouterr()
    assert said in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert told.out == ""


def test_no_column_at_all_is_refused(table, capfd):
    assert lit_fa(["table", "report", str(table), "--columns", ", ,"]) == 2
    assert "names no column" in capfd.readouterr().err


def test_a_page_shows_the_chosen_columns_and_its_texts_too(table):
    folder = table.parent / "pages"
    words = ["report", str(table), "--scale", "full", "--write", str(folder), "--columns", "row,value,verdict"]
    assert main(words) == 0
    html = (folder / "conservation.html").read_text()
    Page(html)  # well-formed
    head = re.search(r"<table class=\"comparison\">.*?</thead>", html, re.S).group()
    assert re.findall(r'<th scope="col" class="(\w+)"', head) == ["label", "number", "picture", "verdict"]
    row = re.search(r"<tbody>\s*<tr>(.*?)</tr>", html, re.S).group(1)
    assert len(re.findall(r"<t[dh]\b", row)) == 4
    assert "95 % of the mean" not in (folder / "conservation/table1-full.md").read_text().split("\n\n")[0]


def test_a_page_without_the_value_has_no_pictures_of_runs(table):
    folder = table.parent / "pages"
    assert main(["report", str(table), "--scale", "full", "--write", str(folder), "--columns", "row,n"]) == 0
    html = (folder / "conservation.html").read_text()
    Page(html)
    assert 'class="picture"' not in html
    assert "<tfoot>" not in html


def test_a_card_keeps_all_columns(table):
    begin, end = markers("table1")
    card = table.parent / "README.md"
    card.write_text(f"{begin}\n{end}\n")
    assert main(["report", str(table), "--scale", "full", "--card", str(card), "--columns", "row,value"]) == 0
    assert not is_stale(table, card)


def test_every_column_of_a_report_has_a_name(table, declared, save):
    loaded = load_table(table)
    assert len(names(loaded)) == len(headers(loaded))
    assert places(loaded, ()) == [*range(9)]
    assert places(loaded, ["test/loss", "row"]) == [8, 0]
    declared["cells"][1]["paired_with"] = loaded.cells[0].id
    paired = load_table(save(declared))
    assert len(names(paired)) == len(headers(paired))
    assert names(paired)[-1] == "pair"
