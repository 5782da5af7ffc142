"""What a table's declared figures show: lines, ticks, units, scale and number of runs."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from lit_fa import plot_style
from lit_fa.__main__ import main as lit_fa
from lit_fa.commands.table import main
from lit_fa.errors import UserError
from lit_fa.reports.figures import by_row, draw, split_panels
from lit_fa.reports.svg import legend, panel_images
from lit_fa.results.records import collect
from lit_fa.spec.table import load_table
from tests.reports.page_parser import Page

CURVES = {"file": "law.png", "title": "Law", "y": "conserve/normalised", "x": "epoch", "lines": "row"}
DOTS = {"file": "rules.svg", "kind": "dots", "y": "test/accuracy", "x": "test/loss", "ylabel": "accuracy, %"}


@pytest.fixture
def figure_of(monkeypatch, tmp_path):
    """Draws the only figure of a table and returns matplotlib's, as it was when it was saved."""
    kept = []
    monkeypatch.setattr(plot_style, "save", lambda figure, part, ending: (kept.append(figure), part.write_bytes(b"x")))

    def drawn(path: Path, scale: str = "full"):
        collected = collected_of(path, scale)
        draw(collected, collected.table.figures[0], tmp_path / "figures")
        kept[-1].canvas.draw()
        return kept[-1]

    return drawn


def collected_of(path: Path, scale: str = "full"):
    table = load_table(path)
    return collect(table, table.scale(scale), path.parent / "results" / table.name / scale)


def with_rows(declared, rows: int, figure: dict, columns=("w 32",)):
    declared["cells"] = [{"row": f"rule {k}", "column": c, "set": {"a": [k, c]}} for k in range(rows) for c in columns]
    declared["figures"] = [figure]
    return declared


def test_scale_number_of_runs_and_band_are_drawn_in(declared, save, fill, figure_of):
    path = save(with_rows(declared, 2, CURVES))
    fill(path, "full")
    (box,) = figure_of(path).legends
    assert box.get_title().get_text() == "full scale; mean of 3 runs, band: one standard deviation"
    fill(path, "smoke")
    assert figure_of(path, "smoke").legends[0].get_title().get_text() == "smoke scale; one run"


def test_a_ninth_line_makes_a_second_panel_that_is_named_so(declared, save, fill, figure_of):
    path = save(with_rows(declared, 9, CURVES))
    fill(path, "full")
    figure = figure_of(path)
    assert [axes.get_title() for axes in figure.axes] == ["(1 of 2)", "(2 of 2)"]
    assert [len(axes.lines) for axes in figure.axes] == [5, 4]
    assert len(figure.legends[0].get_texts()) == 9
    assert (
        len({(line.get_color(), line.get_linestyle(), line.get_marker()) for a in figure.axes for line in a.lines}) == 9
    )
    panels = panel_images(collected_of(path), collected_of(path).table.figures[0], "key")
    assert [title for title, _ in panels] == ["(1 of 2)", "(2 of 2)"]


def test_a_line_has_one_style_in_all_panels(declared, save, fill, figure_of):
    path = save(with_rows(declared, 3, CURVES | {"panels": "column"}, columns=("w 32", "w 64", "w 128")))
    files = fill(path, "full")
    for file in files:
        if "rule-1" in file.name and "w-64" in file.name:
            file.unlink()
    styles: dict[str, set] = {}
    for axes in (figure := figure_of(path)).axes:
        for line in axes.lines:
            styles.setdefault(line.get_label(), set()).add((line.get_color(), line.get_marker()))
    assert [len(axes.lines) for axes in figure.axes] == [3, 2, 3]
    assert {name: len(found) for name, found in styles.items()} == {"rule 0": 1, "rule 1": 1, "rule 2": 1}
    assert len(figure.axes) == 3


def test_epochs_of_a_declared_figure_are_whole(declared, save, fill, figure_of):
    path = save(with_rows(declared, 1, CURVES))
    fill(path, "full")
    assert all(float(tick).is_integer() for tick in figure_of(path).axes[0].get_xticks())


def test_dots_have_a_row_for_each_rule_and_a_panel_for_each_metric(declared, save, fill, figure_of):
    path = save(with_rows(declared, 8, DOTS))
    fill(path, "full")
    left, right = figure_of(path).axes
    assert [axes.get_xlabel() for axes in (left, right)] == ["accuracy, %", "test/loss"]
    assert [text.get_text() for text in left.get_yticklabels()] == [f"rule {k}" for k in range(8)]
    assert left.get_ylim() == (7.5, -0.5)
    (container,) = left.containers
    assert list(container.lines[0].get_xdata()) == [91.0] * 8
    (bar,) = container.lines[2]
    low, high = bar.get_segments()[0][:, 0]
    assert (high - low) / 2 == pytest.approx(2.484, abs=1e-3)  # 4.303 / sqrt(3), Student


def test_dots_of_a_page_tell_their_numbers(declared, save, fill):
    path = save(with_rows(declared, 2, DOTS))
    fill(path, "full")
    collected = collected_of(path)
    images = panel_images(collected, collected.table.figures[0], "key")
    assert 'aria-label="accuracy, %: accuracy, % of each row, from the top. w 32 91, 91."' in images[0][1]
    assert len(images) == 2


def test_a_figure_is_the_same_bytes_twice(declared, save, fill, tmp_path):
    path = save(with_rows(declared, 8, DOTS))
    fill(path, "full")
    words = ["report", str(path), "--scale", "full", "--draw", "--out"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        main([*words, str(path.parent / "results")])
        (path.parent / "results" / "rules-full.svg").rename(tmp_path / name / "rules.svg")
    assert (tmp_path / "a/rules.svg").read_bytes() == (tmp_path / "b/rules.svg").read_bytes()
    ET.fromstring((tmp_path / "a/rules.svg").read_text())


@pytest.mark.parametrize("kind", ["curves", "bars", "dots"])
def test_the_legend_of_a_page_shows_each_line_as_it_is_drawn(declared, save, fill, kind):
    figure = {"curves": CURVES, "dots": DOTS, "bars": CURVES | {"kind": "bars", "y": "test/accuracy", "x": "column"}}[
        kind
    ]
    path = save(with_rows(declared, 3, figure))
    fill(path, "full")
    collected = collected_of(path)
    samples = legend(collected, collected.table.figures[0])
    assert [label for label, _ in samples] == (["w 32"] if kind == "dots" else [f"rule {k}" for k in range(3)])
    assert len({sample for _, sample in samples}) == len(samples)
    for _, sample in samples:
        ET.fromstring(sample)


def test_a_slope_is_a_line_through_the_first_point(declared, save, fill, figure_of):
    figure = {"file": "rates.png", "kind": "final", "y": "test/loss", "x": "column", "lines": "row", "slope": 1}
    columns = ("rate 0.01", "rate 0.02", "rate 0.04")
    path = save(with_rows(declared, 1, figure | {"xscale": "log", "yscale": "log"}, columns))
    for file in fill(path, "full"):
        data = json.loads(file.read_text())
        data["metrics"]["test/loss"] = 3 * data["config"]["a"][1].count("0.04") + 1
        file.write_text(json.dumps(data))
    guide = next(line for line in figure_of(path).axes[0].lines if line.get_label() == "slope 1")
    assert list(guide.get_xdata()) == [0.01, 0.04]
    assert list(guide.get_ydata()) == pytest.approx([1.0, 4.0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            DOTS | {"panels": "column"},
            "a figure of dots has rows, a panel for y and x, no hline, and columns for lines",
        ),
        (DOTS | {"lines": ["rule 0"]}, "a figure of dots has rows"),
        (CURVES | {"slope": 1}, "needs kind: final, xscale: log and yscale: log"),
        (CURVES | {"kind": "dot"}, "dots"),
    ],
)
def test_what_a_figure_cannot_show_is_refused(declared, save, change, said):
    with pytest.raises(UserError, match=said):
        load_table(save(with_rows(declared, 2, change)))


def test_no_committed_figure_is_silent_about_its_axis():
    """A figure without `ylabel` has the key of its metric there, which has no unit."""
    tables = sorted(Path(__file__).parents[2].joinpath("paper_configs").glob("*/*.yaml"))
    declared = [
        (t.name, f.file) for t in tables if "figures:" in t.read_text() for f in load_table(t).figures if not f.ylabel
    ]
    assert declared == []


def test_split_panels_keep_every_point(declared, save, fill):
    path = save(with_rows(declared, 9, CURVES))
    fill(path, "full")
    collected = collected_of(path)
    lines = [line for part in split_panels(collected, collected.table.figures[0]).values() for line in part]
    assert lines == [f"rule {k}" for k in range(9)]


def test_the_metric_by_row_is_drawn_beside_the_angle_to_the_file_that_is_named(declared, save, fill, tmp_path, capfd):
    declared["also"] = [{"name": "test/loss", "unit": "nats"}, {"name": "align/weight/overall", "unit": "degrees"}]
    path = save(with_rows(declared, 3, CURVES))
    for file in fill(path, "full"):
        data = json.loads(file.read_text())
        file.write_text(json.dumps(data | {"metrics": data["metrics"] | {"align/weight/overall": 40 + data["seed"]}}))
    target = tmp_path / "new" / "rules.svg"
    assert main(["report", str(path), "--scale", "full", "--figure", str(target)]) == 0
    assert f"drew {target}" in capfd.readouterr().out
    ET.fromstring(target.read_text())
    figure = by_row(load_table(path), "rules.svg")
    assert (figure.y, figure.x) == ("test/accuracy", "align/weight/overall")
    assert (figure.ylabel, figure.xlabel) == ("test accuracy, %", "align/weight/overall, degrees")


def test_without_an_angle_the_metric_stands_alone(declared, save):
    figure = by_row(load_table(save(with_rows(declared, 3, CURVES))), "rules.svg")
    assert (figure.y, figure.x) == ("test/accuracy", "")


@pytest.mark.parametrize("figure", ["rules.jpg", "rules"])
def test_another_kind_of_image_is_refused_before_anything_is_read(declared, save, figure, capfd):
    path = save(with_rows(declared, 2, CURVES))
    assert lit_fa(["table", "report", str(path), "--figure", figure]) == 2
    assert "ends in none of .png, .pdf, .svg" in capfd.readouterr().err


def test_a_figure_without_records_is_one_line(declared, save, tmp_path, capfd):
    path = save(with_rows(declared, 2, CURVES))
    assert lit_fa(["table", "report", str(path), "--scale", "full", "--figure", str(tmp_path / "a.svg")]) == 2
    assert "no record at the full scale has test/accuracy; run the table" in capfd.readouterr().out


def test_the_image_of_a_page_has_short_places_and_whole_texts(declared, save, fill):
    path = save(with_rows(declared, 2, CURVES | {"ylabel": "of 0.12345"}))
    fill(path, "full")
    collected = collected_of(path)
    ((_, image),) = panel_images(collected, collected.table.figures[0], "key")
    assert "of 0.12345" in image
    assert not re.search(r' d="[^"]*\.\d{3}', image)


DEPTH = {"file": "depth.png", "kind": "depth", "y": "align/delta/", "ylabel": "degrees", "where": {"column": ["w 32"]}}


def with_layers(path: Path, layers: int) -> None:
    """Give every record a curve for each layer, and one for all together."""
    names = [*(f"blocks.{k}" for k in range(layers - 1)), "head", "inexact"]
    for file in (path.parent / "results").rglob("*.json"):
        data = json.loads(file.read_text())
        data["curves"] = {
            f"align/delta/{name}": [[10 * e, e, 90 - k - 10 * data["row"].count("1")] for e in range(4)]
            for k, name in enumerate(names)
        }
        file.write_text(json.dumps(data))


def test_a_declared_heat_map_has_a_row_for_each_layer_and_one_scale_for_all_panels(declared, save, fill, figure_of):
    path = save(with_rows(declared, 2, DEPTH, columns=("w 32", "w 64")))
    fill(path, "full")
    with_layers(path, 50)
    figure = figure_of(path)
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert [axes.get_title() for axes in panels] == ["rule 0", "rule 1"]
    assert all(axes.collections[0].get_array().shape == (50, 4) for axes in panels)
    assert len({axes.collections[0].get_clim() for axes in panels}) == 1
    assert not any(axes.lines for axes in panels)
    named = [text.get_text() for text in panels[0].get_yticklabels()]
    assert named[:2] == ["blocks.0", "blocks.3"]
    assert not any(text.get_visible() and text.get_text() for text in panels[1].get_yticklabels())
    assert "inexact" not in named
    assert all(float(tick).is_integer() for tick in panels[0].get_xticks())
    assert figure.get_supxlabel() == "full scale; mean of 3 runs; input on top"


def test_a_heat_map_of_a_page_has_no_legend_and_says_its_range(declared, save, fill):
    path = save(with_rows(declared, 2, DEPTH))
    fill(path, "full")
    with_layers(path, 50)
    assert main(["report", str(path), "--scale", "full", "--write", str(path.parent / "pages")]) == 0
    page = (path.parent / "pages" / "conservation.html").read_text()
    Page(page)
    assert page.count("degrees of 50 layers over epoch. Last values: 41 to 90.") == 1
    assert legend(collected_of(path), load_table(path).figures[0]) == []


def test_a_heat_map_that_would_mix_columns_is_refused(declared, save):
    with pytest.raises(UserError, match="one line would mix the columns w 32, w 64"):
        load_table(save(with_rows(declared, 2, DEPTH | {"where": {}}, columns=("w 32", "w 64"))))
