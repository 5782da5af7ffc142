"""Figures have one style, tell their lines apart in grey print, and are the same bytes for the same data."""

import ast
import io
import math
import re
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from lit_fa import heat_maps, plot_style
from lit_fa.plot_style import COLOURS, MOST_LINES, bar_style, chunked, line_style

ROOT = Path(__file__).parents[1]


def drawn(panels: int = 1, lines: int = 3):
    figure, grid = plot_style.canvas(panels)
    for axes in grid:
        for k in range(lines):
            axes.plot(range(5), [k * x for x in range(5)], label=f"line {k}", **line_style(k))
        axes.set_xlabel("epoch")
        plot_style.integer_ticks(axes.xaxis)
    plot_style.legend(figure, "cpu scale; mean of 3 runs")
    return figure


def test_only_the_style_makes_figures():
    """Whoever opens matplotlib by itself does not follow the style; `imsave` writes pixels without axes."""
    taken = {}
    for file in sorted(
        f for folder in ("lit_fa", "callbacks", "datamodules", "docs") for f in (ROOT / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("matplotlib"):
                taken.setdefault(file.relative_to(ROOT).as_posix(), set()).update(a.name for a in node.names)
    taken.pop("lit_fa/plot_style.py")
    allowed = {"Axes", "Figure", "FigureCanvasSVG", "MathTextParser", "imsave"}  # types, and what draws nothing itself
    assert {name: names - allowed for name, names in taken.items() if names - allowed} == {}
    assert "subplots(" not in "".join((ROOT / name).read_text(encoding="utf-8") for name in taken)


def test_no_two_of_forty_nine_lines_are_alike_even_in_grey():
    looks = [line_style(k) for k in range(49)]
    assert all(a != b for a, b in combinations(looks, 2))
    for first in range(0, 49, MOST_LINES):
        in_grey = [(str(look["linestyle"]), look["marker"]) for look in looks[first : first + MOST_LINES]]
        assert len(set(in_grey)) == MOST_LINES
        assert len({bar_style(k)["hatch"] for k in range(first, first + MOST_LINES)}) == MOST_LINES


def test_the_colours_are_those_of_okabe_and_ito():
    assert set(COLOURS) == {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"}


@pytest.mark.parametrize(
    ("lines", "sizes"), [(0, []), (1, [1]), (7, [7]), (8, [4, 4]), (15, [5, 5, 5]), (16, [6, 6, 4])]
)
def test_more_than_seven_lines_are_split_and_the_titles_say_so(lines, sizes):
    names = [f"line {k}" for k in range(lines)]
    panels = chunked({"angles": dict.fromkeys(names, 0)}, names)
    assert [len(part) for part in panels.values()] == sizes
    assert [name for part in panels.values() for name in part] == names
    many = len(sizes)
    assert [*panels] == [f"angles ({k + 1} of {many})" if many > 1 else "angles" for k in range(many)]


@pytest.mark.parametrize(("panels", "grid"), [(1, (1, 1)), (2, (1, 2)), (3, (2, 2)), (5, (3, 2))])
def test_panels_are_in_rows_of_two(panels, grid):
    with plot_style.style():
        figure, axes = plot_style.canvas(panels)
    assert len(axes) == len(figure.axes) == panels
    assert axes[0].get_gridspec().get_geometry() == grid


def test_epochs_have_whole_ticks():
    with plot_style.style():
        figure = drawn()
        figure.axes[0].set_xlim(0, 3.2)
        figure.canvas.draw()
        ticks = figure.axes[0].get_xticks()
    assert len(ticks) >= 3
    assert all(float(tick).is_integer() for tick in ticks)


def test_one_legend_lies_below_all_panels_and_names_each_line_once():
    with plot_style.style():
        figure = drawn(panels=3)
        figure.canvas.draw()
        (box,) = figure.legends
        assert [text.get_text() for text in box.get_texts()] == ["line 0", "line 1", "line 2"]
        assert box.get_title().get_text() == "cpu scale; mean of 3 runs"
        lowest = min(axes.get_tightbbox().y0 for axes in figure.axes)
        assert box.get_window_extent().y1 <= lowest
    assert [axes.get_legend() for axes in figure.axes] == [None] * 3


def test_a_long_legend_makes_the_figure_higher_and_no_panel_smaller():
    def height(lines: int) -> float:
        figure = drawn(lines=lines)
        figure.canvas.draw()
        return figure.axes[0].get_window_extent().height

    with plot_style.style():
        assert height(7) == pytest.approx(height(1), rel=0.06)


def test_no_label_of_a_legend_leaves_the_figure():
    with plot_style.style():
        figure, (axes,) = plot_style.canvas(1)
        for k in range(7):
            axes.plot([0, 1], [0, k], label=f"a rule with a long name {k}", **line_style(k))
        plot_style.legend(figure, "cpu scale")
        figure.canvas.draw()
        box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_same_figure_gives_the_same_bytes_whatever_the_users_settings_are(tmp_path, ending):
    first, second = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    with plot_style.style():
        plot_style.save(drawn(), first, ending)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "black"}), plot_style.style():
        plot_style.save(drawn(), second, ending)
    assert first.read_bytes() == second.read_bytes()
    assert len(first.read_bytes()) > 1000


def test_the_users_settings_are_there_again_afterwards():
    with matplotlib.rc_context({"font.size": 17}):
        with plot_style.style(svg_fonttype="none"):
            assert matplotlib.rcParams["font.size"] == 9
            assert matplotlib.rcParams["svg.fonttype"] == "none"
        assert matplotlib.rcParams["font.size"] == 17


def test_a_heat_map_has_a_row_for_each_layer_the_first_one_on_top():
    rows = {f"blocks.{k}": [k, k + 0.5, math.nan] for k in range(50)}
    with plot_style.style():
        figure, (axes,) = plot_style.canvas(1)
        heat_maps.heat_map(axes, [0, 1, 3], rows, "degrees")
        figure.canvas.draw()
    (mesh,) = axes.collections
    assert mesh.get_array().shape == (50, 3)
    assert np.isnan(mesh.get_array().filled(np.nan)[:, 2]).all()
    high, low = axes.get_ylim()
    assert (high, low) == (49.5, -0.5)
    named = [text.get_text() for text in axes.get_yticklabels()]
    assert named[:2] == ["0", "3"]  # what all share is left out
    assert len(named) <= 24
    assert figure.axes[1].get_ylabel() == "degrees"
    assert axes.lines == [] or not len(axes.lines)


def test_colours_of_a_heat_map_grow_lighter_with_the_value():
    colours = matplotlib.colormaps[heat_maps.HEAT](np.linspace(0, 1, 32))[:, :3]
    assert (np.diff(colours @ [0.299, 0.587, 0.114]) > 0).all()


def test_a_picture_of_256_colours_shows_the_lines_in_their_colours(tmp_path):
    with plot_style.style():
        plot_style.save(drawn(lines=7), tmp_path / "a.png", ".png")
    shown = {colour for _, colour in Image.open(tmp_path / "a.png").convert("RGB").getcolors(1 << 20)}
    for colour in COLOURS:
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert min(np.abs(np.array(one) - wanted).max() for one in shown) < 8


def test_a_colour_scale_keeps_all_its_colours(tmp_path):
    with plot_style.style():
        figure, (axes,) = plot_style.canvas(1)
        heat_maps.heat_map(axes, range(600), {"a": range(600), "b": range(600)}, "")
        plot_style.save(figure, tmp_path / "a.png", ".png")
    assert len(Image.open(tmp_path / "a.png").convert("RGB").getcolors(1 << 20)) > 256


def test_svg_has_no_date(tmp_path):
    with plot_style.style():
        plot_style.save(drawn(), tmp_path / "a.svg", ".svg")
    assert not re.search(r"\d{4}-\d{2}-\d{2}T", (tmp_path / "a.svg").read_text())


def test_without_lines_the_note_stands_alone():
    with plot_style.style():
        figure, _ = plot_style.canvas(1)
        plot_style.legend(figure, "one run")
        figure.savefig(io.BytesIO(), format="png")
    assert figure.get_supxlabel() == "one run"
