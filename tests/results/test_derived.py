"""Records from before a key existed are read under today's key."""

import math

import pytest

from lit_fa.results.derived import with_derived


def record(**angles):
    curves = {f"align/delta/{name}": [[0, 0.0, a], [5, 1.0, b]] for name, (a, b) in angles.items()}
    return {"metrics": {key: curve[-1][2] for key, curve in curves.items()}, "curves": curves}


def test_the_mean_over_inexact_layers_leaves_out_the_read_out_of_an_older_record():
    old = with_derived(record(**{"0": (90.0, 40.0), "2": (0.0, 20.0), "head": (0.0, 0.0), "overall": (30.0, 20.0)}))
    assert old["curves"]["align/delta/inexact"] == [[0, 0.0, 45.0], [5, 1.0, 30.0]]
    assert old["metrics"]["align/delta/inexact"] == 30.0
    assert "align/gradient/inexact" not in old["metrics"]


def test_an_older_record_of_backprop_has_no_inexact_layer_and_zero_degrees():
    old = with_derived(record(**{"0": (0.0, 0.0), "head": (0.0, 0.0), "overall": (0.0, 0.0)}))
    assert old["metrics"]["align/delta/inexact"] == 0.0
    assert [value for *_, value in old["curves"]["align/delta/inexact"]] == [0.0, 0.0]


def test_an_angle_that_does_not_exist_is_left_out_of_the_mean():
    old = with_derived(record(**{"0": (90.0, math.nan), "2": (80.0, 20.0), "head": (0.0, 0.0)}))
    assert [value for *_, value in old["curves"]["align/delta/inexact"]] == [85.0, 20.0]


def test_what_a_newer_record_holds_is_not_computed_again():
    new = record(**{"0": (90.0, 40.0), "inexact": (7.0, 8.0)})
    assert with_derived(new) == new


def test_a_record_without_angles_stays_as_it_is():
    plain = {"metrics": {"test/accuracy": 90.0}, "curves": {}, "status": "finished"}
    assert with_derived(plain) == plain


@pytest.mark.parametrize("kind", ["gradient", "delta"])
def test_both_kinds_are_derived(kind):
    key = f"align/{kind}/1"
    old = with_derived({"metrics": {key: 50.0}, "curves": {key: [[0, 0.0, 50.0]]}})
    assert old["metrics"][f"align/{kind}/inexact"] == 50.0


def test_an_older_drift_of_fewer_steps_is_not_read_as_todays():
    key, curve = "drift/transport/head", [[0, 0.0, 2.0]]
    old = with_derived({"metrics": {key: 2.0}, "curves": {key: curve}})
    assert old["metrics"] == {"drift/transport_common/head": 2.0}
    assert old["curves"] == {"drift/transport_common/head": curve}
    new = {"schema": 2, "metrics": {key: 2.0}, "curves": {key: curve}}
    assert with_derived(new) == new
