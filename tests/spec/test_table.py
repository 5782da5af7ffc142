"""A table file that cannot be understood is refused in one line that says what to write."""

import contextlib
import copy

import pytest

from lit_fa.errors import UserError
from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table
from tests.table_fixtures import BASE


def put(table: dict, dotted: str, value: object) -> None:
    *parents, last = (int(name) if name.isdigit() else name for name in dotted.split("."))
    for name in parents:
        table = table[name] if isinstance(table, list) else table.setdefault(name, {})
    table[last] = value


@pytest.mark.parametrize(
    ("dotted", "value", "says"),
    [
        ("metrics", {}, "unknown key 'metrics'; nearest: metric"),
        ("paper.tabel", "Table 1", "unknown key 'tabel'; nearest: table"),
        ("paper.arxiv", 2306.0187, "put it in quotes"),
        ("base", "bse.yaml", "there is no file"),
        ("base", "x" * 5000, "there is no file"),
        ("metric.at", "lst", "unknown 'lst'; nearest: last"),
        ("metric", {"name": "val/loss", "unit": "nats", "at": "best_validation"}, "only test/ metrics are"),
        ("protocol.patience", 0, "protocol.patience: 0 is too small"),
        ("protocol.held_out", 1.5, "1.5 is not a whole number"),
        ("protocol.monitor", "test/accuracy", "is not a metric of held-out data; write val/..."),
        ("metric.better", "up", "valid: higher, lower"),
        ("metric.unit", None, "metric.unit: has no value"),
        ("also", [{"name": "test/loss"}], "the key 'unit' is missing"),
        ("seeds", [], "seeds: is empty"),
        ("seeds", [0, 0], "the seed 0 is there twice"),
        ("seeds", [-1], "-1 is not a seed"),
        ("seeds", ["zero"], "'zero' is not a seed"),
        ("seeds", [2**32], "is not a seed; write different whole numbers from 0 to 2**32 - 1"),
        ("metric.name", "", "'' is no name"),
        ("metric.name", "test/accuracy ", "'test/accuracy ' is no name; write it without blanks at its ends"),
        ("also", [{"name": "\ufeff", "unit": "%"}], "not one line of printable characters"),
        ("cells.0.row", "FA\u200b", "not one line of printable characters"),
        ("seeded", "seed_everything", "expected a list"),
        ("accept", None, "accept is missing, and 'FA|width 32' has a published number; write {margin, why}"),
        ("accept.margin", 0, "too small; more than 0 is needed"),
        ("accept.why", " ", "the reason is empty"),
        ("accept", {"floor": 0.3}, "`floor` is gone; write margin"),
        ("accept", {"margin": 0.3}, "the key 'why' is missing"),
        ("accept", {"margn": 1, "why": "x"}, "nearest: margin"),
        ("scales.fulll", {}, "unknown 'fulll'; nearest: full"),
        ("scales", {}, "scales: is empty"),
        ("scales.cpu.seeds", [], "scales.cpu.seeds: is empty"),
        ("scales.cpu.set", {"trainer.max_epochs": 0}, "leaves nothing to train"),
        ("scales.cpu.set", {"trainer.max_steps": -1}, "leaves nothing to train"),
        ("scales.cpu.cost", {}, "scales.cpu.cost: is empty"),
        ("scales.cpu.cost", {"cpu_hour": 1}, "nearest: cpu_hours"),
        ("scales.cpu.cost", {"cpu_hours": -1}, "too small"),
        ("scales.cpu.cost", {"device": "tpu"}, "unknown 'tpu'; nearest: gpu, cpu"),
        ("cells", [], "cells: is empty"),
        ("cells.0.published", 97.8, "has no unit"),
        ("cells.0.published", {"value": 97.8}, "the key 'unit' is missing"),
        ("cells.0.published.value", "97.8 %", "expected a number"),
        ("cells.0.published.n", 0, "too small"),
        ("cells.0.published.n", 2.5, "2.5 is not a whole number"),
        ("cells.0.published.std", -1, "too small"),
        ("cells.0.published.exact", True, "an exact number has no spread and no runs"),
        ("cells.0.published.exact", "maybe", "valid boolean"),
        ("cells.0.published.at", "lst", "unknown 'lst'; nearest: last"),
        ("cells.0.row", True, "expected a number, got True"),
        ("assumed.batch", 128, "put it in quotes"),
        ("cells.0.scales", ["cpuu"], "unknown 'cpuu'; nearest: cpu"),
        ("cells.0.sets", {}, "unknown key 'sets'; nearest: set"),
        ("cells.0.metric", {"at": "bst"}, "nearest: best"),
        ("cells.1", {"row": "FA", "column": "width 32"}, "'FA|width 32' is there twice"),
        ("figures", [{"file": "a.png", "y": "test/loss", "kind": "finl"}], "nearest: final"),
        ("figures", [{"file": "a.txt", "y": "test/loss"}], "is no image"),
        ("figures", [{"file": f, "y": "test/loss"} for f in ("a.png", "b/a.png")], "two figures have the file a.png"),
        ("figures", [{"file": "a.png", "y": "b", "lines": ["FA", "PB"]}], "not all rows or all columns"),
        ("figures", [{"file": "a.png", "y": "b", "where": {"row": ["PB"]}}], "nearest: BP"),
        ("figures", [{"file": "a.png", "y": "b", "panels": "row"}], "both the rows"),
        ("figures", [{"file": "a.png", "y": "b", "lines": "column"}], "would mix the rows FA, BP"),
        ("figures", [{"file": "a.png", "y": "b", "kind": "final", "lines": "column", "x": "row"}], "no number in it"),
        ("figures", [{"file": "a.png", "y": "b", "kind": "against"}], "figures[0]: the key 'x' is missing"),
        ("figures", [{"file": "a.png", "y": "b", "kind": "bars", "x": "row"}], "x and lines are both the rows"),
        ("figures", [{"file": "a.png", "y": "b", "hline": {"label": "x"}}], "hline: the key 'value' is missing"),
        ("grid", {"rows": {"A": {}}, "columns": {"B": {"sets": {}}}}, "unknown key 'sets'; nearest: set"),
        ("grid", {"rows": {"A": {}}, "columns": {"B": {}}, "published": {"A|C": None}}, "nearest: A|B"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_line(declared, save, dotted, value, says):
    put(declared, dotted, value)
    with pytest.raises(UserError) as raised:
        load_table(save(declared))
    assert says in str(raised.value)
    assert "table1.yaml" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1, 2", ":1: not valid YAML"),
        ("a: 1\na: 2", "'a' is written twice"),
        ("- a", "expected a mapping"),
        ("", "expected a mapping"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(tmp_path, text, says):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UserError, match=says) as raised:
        load_table(tmp_path / "t.yaml")
    assert len(str(raised.value).splitlines()) == 1


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            load_table(path)


def test_a_table_holds_what_its_file_says(declared, save):
    table = load_table(save(declared))
    assert table.name == "table1"
    assert [cell.id for cell in table.cells] == ["FA|width 32", "BP|width 32"]
    assert table.cells[0].published.value == 91.0
    assert (table.scale("cpu").seeds, table.scale("full").seeds) == ((0, 1), (0, 1, 2))
    assert (table.cells[0].accept.margin, table.metric.at, table.scale(None).name) == (0.3, "last", "cpu")


def test_an_exponent_without_a_dot_is_a_number(declared, save):
    path = save(declared)
    path.write_text(path.read_text().replace("margin: 0.3", "margin: 3e-1"))
    assert load_table(path).cells[0].accept.margin == 0.3


def test_a_grid_crosses_rows_and_columns_and_the_column_comes_last(declared, save):
    del declared["cells"]
    declared["grid"] = {
        "rows": {"BP": {"set": {"a": 1, "b": 1}, "note": "row"}, "FA": {"set": {"a": 2}, "scales": ["cpu"]}},
        "columns": {"w32": {"set": {"b": 32}}, "w64": {"set": {"b": 64}, "note": "column", "scales": ["full"]}},
        "published": {"FA|w32": {"value": 1, "unit": "%"}},
    }
    cells = {cell.id: cell for cell in load_table(save(declared)).cells}
    assert list(cells) == ["BP|w32", "BP|w64", "FA|w32"]  # FA at cpu only and w64 at full only never meet
    assert (cells["BP|w32"].set, cells["FA|w32"].set) == ({"a": 1, "b": 32}, {"a": 2, "b": 32})
    assert (cells["BP|w64"].notes, cells["FA|w32"].published.value) == (("row", "column"), 1)


def test_a_cell_overrides_single_keys_of_the_metric(declared, save):
    declared["cells"][0]["metric"] = {"at": "best"}
    metric = load_table(save(declared)).cells[0].metric
    assert (metric.name, metric.at) == ("test/accuracy", "best")


def places_in(node: object, path: tuple = ()) -> list[tuple]:
    """The path of every entry of nested dicts and lists."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in entries for place in [(*path, key), *places_in(value, (*path, key))]]


def test_anything_anywhere_is_either_read_or_refused_as_a_user_error(declared, save, monkeypatch):
    declared["also"] = [{"name": "test/loss", "unit": "nats"}]
    declared["grid"] = {"rows": {"A": {"set": {"a": 1}}}, "columns": {"w8": {"scales": ["cpu"]}}, "published": {}}
    declared["figures"] = [
        {
            "file": "a.png",
            "y": "x",
            "panels": "column",
            "lines": "row",
            "where": {"row": ["FA"]},
            "hline": {"value": 1},
        },
        {"file": "b.png", "y": "x", "kind": "final", "x": "column", "band": "std", "yscale": "log"},
    ]
    read = 0
    path = save(declared)
    table = load_table(path)
    assert len(table.cells) == 3
    for *parents, last in places_in(declared):
        for wrong in (None, 3, True, [], {}, [None]):
            changed = copy.deepcopy(declared)
            node = changed
            for name in parents:
                node = node[name]
            node[last] = wrong
            files = {path: changed, path.parent / "base.yaml": BASE}  # YAML would be read a thousand times
            monkeypatch.setattr("lit_fa.spec.table.read_yaml", lambda file, files=files: copy.deepcopy(files[file]))
            with contextlib.suppress(UserError):
                table = load_table(path)
                for scale in table.scales.values():
                    expand(table, scale)
                read += 1
    # Most wrong values are refused; free entries, such as overrides, take anything.
    assert 0 < read < 100
