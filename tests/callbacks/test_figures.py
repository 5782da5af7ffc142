"""Pictures of one run."""

import pytest

from callbacks import ConservationPotential, Figures, GradientAlignment, WeightAlignment
from callbacks.figures import select
from lit_fa.rules import FeedbackAlignment
from tests.callbacks.training import fit, mlp

PNG = b"\x89PNG"


def test_a_fit_leaves_one_figure_for_each_kind_of_curve(tmp_path):
    figures = Figures(str(tmp_path / "figures"))
    fit(mlp(), FeedbackAlignment(), [figures, WeightAlignment(), GradientAlignment(), ConservationPotential()])
    drawn = {path.name: path.read_bytes()[:4] for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"alignment.png": PNG, "conservation.png": PNG, "training.png": PNG}


def test_what_was_not_measured_is_not_drawn(tmp_path):
    fit(mlp(), FeedbackAlignment(), [Figures(str(tmp_path))])
    assert [path.name for path in tmp_path.iterdir()] == ["training.png"]


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
