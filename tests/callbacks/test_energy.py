"""Joules by the counters of a machine, where it has some."""

import pytest

from lit_fa.callbacks import energy
from lit_fa.callbacks.energy import EnergyMeter, card_joules, processor_joules


@pytest.fixture
def packages(tmp_path):
    for name, joules in (("intel-rapl:0", 3), ("intel-rapl:1", 4), ("intel-rapl:0:0", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{joules * 10**6}\n")
    return tmp_path


def test_packages_are_summed_and_their_parts_are_not(packages):
    assert processor_joules(packages) == 7.0


def test_a_machine_without_counters_says_none(tmp_path):
    assert processor_joules(tmp_path) is None
    assert card_joules() is None or card_joules() > 0


def test_a_counter_that_is_not_a_number_says_none(packages):
    (packages / "intel-rapl:1/energy_uj").write_text("denied")
    assert processor_joules(packages) is None


def test_a_meter_adds_up_its_parts_and_ignores_a_counter_that_began_again(monkeypatch):
    values = iter([10.0, 15.0, 100.0, 107.0, 50.0, 3.0])
    monkeypatch.setattr(energy, "counters", lambda: {"cpu": next(values), "gpu": None})
    meter = EnergyMeter()
    for expected in (5.0, 12.0, 12.0):
        meter.start()
        meter.stop()
        assert meter.total() == {"cpu": expected, "gpu": None}
