"""A run of a table says what it costs before it starts, and where its records are when it ends."""

import re

import pytest

from lit_fa.commands import table_run
from lit_fa.commands.table import main

RUNNER = "tests.fake_runner:run"
GPU = {"gpu_hours": 12, "memory_gib": 9, "device": "gpu"}


@pytest.fixture(autouse=True)
def without_card(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table_run, "_has_cuda", lambda: False)


def said(path, capfd, *words: str, code: int = 0) -> list[str]:
    assert main(["run", str(path), *words], runner=RUNNER) == code
    return [line for line in capfd.readouterr().out.splitlines() if line]


def warnings(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("warning: ")]


def with_cost(declared, scale, cost):
    declared["scales"][scale]["cost"] = cost
    return declared


def test_the_last_line_has_the_outcome_the_time_the_folder_and_the_command_that_reports(declared, save, capfd):
    path = save(declared)
    last = said(path, capfd, "--scale", "cpu")[-1]
    told = rf"4 runs finished, 0 failed in [\d.]+ s; results/table1/cpu; lit-fa table report {path} --scale cpu"
    assert re.fullmatch(told, last)
    assert said(path, capfd, "--scale", "cpu")[-1].startswith("0 runs finished, 0 failed in ")


def test_failures_are_told_before_the_last_line(declared, save, capfd):
    declared["cells"] = [{"row": "error", "set": {"fake.fail": "error"}}, {"row": "fine"}]
    lines = said(save(declared), capfd, "--scale", "cpu", "--out", "elsewhere", code=1)
    assert lines[-1].startswith("2 runs finished, 2 failed in ")
    assert lines[-1].endswith("--scale cpu --out elsewhere")
    assert lines[-2].startswith("failed: ")


def test_the_full_scale_without_a_card_is_warned_of_with_its_cost(declared, save, capfd):
    path = save(with_cost(declared, "full", GPU))
    lines = said(path, capfd, "--scale", "full")
    (line,) = warnings(lines)
    assert f"there is no CUDA device; the 6 runs of {path} at the full scale cost 12.0 hours of GPU, 9.0 GiB" in line
    assert lines.index(line) < next(k for k, other in enumerate(lines) if other.startswith("start"))
    assert warnings(said(path, capfd, "--scale", "full")) == []  # nothing is missing


def test_a_part_of_the_runs_costs_its_share(declared, save, capfd):
    lines = said(save(with_cost(declared, "full", GPU)), capfd, "--scale", "full", "--seeds", "0")
    assert "the 2 runs" in (line := warnings(lines)[0])
    assert "cost 4.0 hours of GPU" in line


def test_an_unknown_cost_of_the_full_scale_is_said_to_be_unknown(declared, save, capfd):
    assert "cost unknown cost" not in (line := warnings(said(save(declared), capfd, "--scale", "full"))[0])
    assert "of unknown cost" in line


@pytest.mark.parametrize(
    ("scale", "cost"),
    [
        ("cpu", {"gpu_hours": 12, "device": "gpu"}),
        ("full", {"cpu_hours": 40, "device": "cpu"}),
        ("full", {"gpu_hours": 0.2, "device": "gpu"}),
    ],
    ids=["smaller scale", "declared for processors", "cheap"],
)
def test_what_is_meant_for_processors_or_is_cheap_is_not_warned_of(declared, save, capfd, scale, cost):
    assert warnings(said(save(with_cost(declared, scale, cost)), capfd, "--scale", scale)) == []


def test_with_a_card_there_is_no_warning(declared, save, capfd, monkeypatch):
    monkeypatch.setattr(table_run, "_has_cuda", lambda: True)
    assert warnings(said(save(with_cost(declared, "full", GPU)), capfd, "--scale", "full")) == []


def test_what_would_run_is_not_warned_of(declared, save, capfd):
    assert warnings(said(save(with_cost(declared, "full", GPU)), capfd, "--scale", "full", "--dry-run")) == []
