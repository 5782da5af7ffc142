"""The simulator of schedules: its formulas where they can be counted by hand."""

import pytest

from lit_fa.errors import UserError
from lit_fa.parallel.schedule import METHODS, Setting, delays, one_device, seconds, speedup

DIRECT = ("dfa_sync", "dfa_full", "drtp", "local_losses")


@pytest.mark.parametrize("name", METHODS)
def test_one_stage_has_no_bubble_and_no_message(name: str):
    at = Setting(1, 3, forward=1.0, inputs=2.0, weights=4.0, latency=100.0, batches=5)
    work = 5 * 3 * (1.0 + 4.0 if METHODS[name].seconds.__name__ in ("sync_feedback", "full_pipeline") else 7.0)
    assert seconds(name, at) == work * METHODS[name].factor


def test_pipelined_backprop_waits_twice_for_every_stage():
    # three microbatches reach the second stage after one second; their errors return after another message
    assert seconds("1f1b", Setting(2, 3, latency=0.5)) == (3 + 1) * 3 + 2 * 0.5


def test_a_full_pipeline_is_filled_once_a_run():
    fill = [seconds("drtp", Setting(5, 1, latency=0.25, batches=n)) - 2 * n for n in (1, 10, 100)]
    assert fill == [4 * 1.25] * 3


def test_synchronous_direct_feedback_has_the_bubble_of_zero_bubble_at_two_thirds_of_the_work():
    for stages in (2, 8, 64):
        at = Setting(stages, 16)
        assert seconds("zero_bubble", at) - 16 * 3 == seconds("dfa_sync", at) - 16 * 2 == stages - 1


def test_many_stages_are_as_many_times_faster_only_without_a_bubble():
    at = Setting(1024, 128, batches=10**7)
    assert [round(speedup(name, at)) for name in ("1f1b", "zero_bubble", "dfa_sync", "drtp")] == [114, 279, 307, 1536]
    assert one_device(Setting(4, 2, 1.0, 2.0, 3.0, batches=7)) == 7 * 2 * 4 * 6


def test_only_the_error_comes_late():
    assert delays(3, error=True) == [2, 1, 0]
    assert delays(3, error=False) == [0, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [{"stages": 0}, {"microbatches": 0}, {"latency": -1.0}, {"forward": float("nan")}, {"forward": 0, "weights": 0}],
)
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(UserError):
        Setting(**wrong)
