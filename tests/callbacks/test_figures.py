"""Pictures of one run."""

import math

import pytest

from lit_fa import plot_style
from lit_fa.callbacks import ConservationPotential, Figures, GradientAlignment, WeightAlignment
from lit_fa.callbacks.figures import draw, ordered, select
from lit_fa.rules import FeedbackAlignment
from tests.callbacks.training import fit, mlp

PNG = b"\x89PNG"


@pytest.fixture
def saved(monkeypatch):
    """The figures that are drawn, by file name, as matplotlib's objects."""
    kept = {}

    def save(figure, part, ending):
        figure.canvas.draw()
        kept[len(kept)] = figure
        part.write_bytes(b"x")

    monkeypatch.setattr(plot_style, "save", save)
    return kept


def curve(*values: float):
    return [(10 * k, float(k), value) for k, value in enumerate(values)]


def test_a_fit_leaves_one_figure_for_each_kind_of_curve(tmp_path):
    figures = Figures(str(tmp_path / "figures"))
    fit(mlp(), FeedbackAlignment(), [figures, WeightAlignment(), GradientAlignment(), ConservationPotential()])
    drawn = {path.name: path.read_bytes()[:4] for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"alignment.png": PNG, "conservation.png": PNG, "training.png": PNG}


def test_what_was_not_measured_is_not_drawn(tmp_path):
    fit(mlp(), FeedbackAlignment(), [Figures(str(tmp_path))])
    assert [path.name for path in tmp_path.iterdir()] == ["training.png"]


def test_fifty_layers_are_a_heat_map_over_depth(tmp_path, saved):
    layers = {f"blocks.{k}": curve(90, 60 + k, 50) for k in range(50)}
    draw(tmp_path / "alignment.png", {"update and gradient": layers | {"inexact": curve(90, 70, 50)}})
    axes, colours = saved[0].axes
    (mesh,) = axes.collections
    assert mesh.get_array().shape == (50, 3)
    assert len(axes.lines) == 0
    assert axes.get_title() == "update and gradient of 50 layers, input on top\nat the end: inexact 50"
    assert colours.get_ylabel() == "angle, degrees"
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_seven_layers_are_lines_with_a_legend_outside(tmp_path, saved):
    draw(tmp_path / "alignment.png", {"errors": {f"blocks.{k}": curve(90, 60 + k) for k in range(7)}}, note="one run")
    (axes,) = saved[0].axes
    named = [line.get_label() for line in axes.lines]
    assert named == [*(f"blocks.{k}" for k in range(7)), "no alignment"]
    assert axes.get_legend() is None
    (box,) = saved[0].legends
    assert box.get_title().get_text() == "one run"
    assert [text.get_text() for text in box.get_texts()] == named


def test_a_layer_that_was_measured_less_often_has_gaps(tmp_path, saved):
    layers = {f"blocks.{k}": curve(1, 2, 3) for k in range(8)} | {"head": curve(1, 2)}
    draw(tmp_path / "drift.png", {"client updates": layers}, x="round")
    values = saved[0].axes[0].collections[0].get_array()
    assert math.isnan(values.filled(math.nan)[8, 2])
    assert saved[0].axes[0].get_xlabel() == "round"


def test_layers_are_ordered_as_in_the_network_and_the_whole_comes_last():
    curves = dict.fromkeys(["blocks.10", "blocks.2", "head", "inexact", "stem"], curve(1, 2))
    assert [*ordered(curves, ["stem", "blocks.2", "blocks.10", "head"])] == [
        *("stem", "blocks.2", "blocks.10", "head", "inexact"),
    ]
    assert [*ordered(curves, [])] == ["blocks.2", "blocks.10", "head", "stem", "inexact"]


def test_the_figures_of_equal_curves_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        draw(tmp_path / name / "training.png", {"loss": {"train": curve(2, 1), "val": curve(2.1, 1.2)}}, note="one run")
    assert (tmp_path / "a/training.png").read_bytes() == (tmp_path / "b/training.png").read_bytes()


def test_a_run_says_its_rule_and_seed_in_the_figure(tmp_path, saved, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    fit(mlp(), FeedbackAlignment(), [Figures(str(tmp_path))])
    assert saved[0].legends[0].get_title().get_text() == "one run, FeedbackAlignment, seed 3"


@pytest.mark.parametrize(
    ("ends", "names"),
    [
        (("conserve/", "/normalised"), ["1", "all layers"]),
        (("", "/loss"), ["val", "train"]),
        (("align/weight/", ""), ["head"]),
    ],
)
def test_lines_are_named_by_layer_or_split(ends, names):
    line, point = [(0, 0.0, 1.0), (1, 1.0, 2.0)], [(0, 0.0, 1.0)]
    keys = ["conserve/1/normalised", "conserve/normalised", "val/loss", "train/loss_epoch", "align/weight/head"]
    curves = dict.fromkeys(keys, line) | {"conserve/3/normalised": point}
    assert list(select(curves, *ends)) == names
