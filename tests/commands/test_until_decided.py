"""`table run --until-decided` adds seeds while a verdict is undecided, and reports count their records."""

import json
import subprocess
from pathlib import Path

import pytest

from lit_fa.commands.table import main
from lit_fa.commands.table_decide import seeds_wanted
from lit_fa.errors import UserError
from lit_fa.jobs.pool import Outcome
from lit_fa.jobs.worker import Done
from lit_fa.results.compare import compare
from lit_fa.results.records import collect
from lit_fa.results.verdict import Kind
from lit_fa.spec.table import load_table
from tests.fake_runner import record_of, write

RUNNER = "tests.commands.test_until_decided:steady"


def steady(config: dict, record: dict) -> None:
    """A run whose accuracy alternates around the one that its config asks for."""
    value = config["fake"]["accuracy"] + config["fake"]["spread"] * (-1) ** record["seed"]
    write(record, record_of(record, config, metrics={"test/accuracy": value}))


def done(job) -> Outcome:
    Path(job.record["path"]).parent.mkdir(parents=True, exist_ok=True)
    steady(job.config, job.record)
    return Outcome(job, Done("", False, 0.1))


@pytest.fixture(autouse=True)
def trained(monkeypatch) -> list[str]:
    """The labels of the runs that were trained, here instead of in a pool."""
    labels: list[str] = []

    def run_here(jobs, **_):
        for job in jobs:
            labels.append(job.label)
            yield done(job)

    monkeypatch.setattr("lit_fa.commands.table_run.run_jobs", run_here)
    return labels


@pytest.fixture
def table(declared, save) -> Path:
    """FA has a published number, BP has none."""
    declared["cells"][0]["published"]["std"] = 0.02
    declared["cells"][0]["set"] |= {"fake": {"accuracy": 91.0, "spread": 0.4}}
    declared["cells"][1]["set"] |= {"fake": {"accuracy": 95.0, "spread": 0.4}}
    return save(declared)


def run(path: Path, *words: str) -> int:
    return main(["run", str(path), "--until-decided", *words], runner=RUNNER)


def rows(path: Path):
    table = load_table(path)
    return compare(collect(table, table.scale("full"), path.parent / "results/table1/full"))


def test_seeds_are_added_to_an_undecided_cell_until_it_agrees(table, trained, capsys):
    before = table.read_text()
    assert run(table, "--json", str(table.parent / "outcome.json")) == 0
    (fa, bp) = rows(table)
    assert (fa.kind, bp.summary.n, table.read_text()) == (Kind.AGREES, 3, before)
    assert 3 < fa.summary.n <= 24
    assert trained[6:] == [f"table1: FA, width 32, seed {seed}" for seed in range(3, fa.summary.n)]
    assert "table1: FA, width 32: undecided with 3 seeds" in capsys.readouterr().out
    assert len(json.loads((table.parent / "outcome.json").read_text())) == len(trained)
    trained.clear()
    assert (run(table), trained) == (0, [])


def test_a_report_counts_further_seeds_and_names_them(table, capsys):
    run(table)
    fa, bp = rows(table)
    assert (fa.counts.expected, fa.counts.finished, bp.counts.expected) == (fa.summary.n, fa.summary.n, 3)
    capsys.readouterr()
    assert main(["report", str(table), "--scale", "full", "--format", "md"]) == 0
    assert "* seeds: 0, 1, 2; of 1 cells also 3, 4, 5, " in capsys.readouterr().out
    assert main(["run", str(table), "--scale", "full", "--seeds", "3"], runner=RUNNER) == 0
    assert "1 of 1 runs done" in capsys.readouterr().out
    with pytest.raises(UserError, match="no seed 99"):
        main(["run", str(table), "--scale", "full", "--seeds", "99"], runner=RUNNER)


def test_a_half_written_record_of_a_further_seed_is_run_again(table, trained):
    run(table)
    further = next((table.parent / "results/table1/full").glob("FA*seed4__*.json"))
    further.write_text("{")
    trained.clear()
    assert main(["run", str(table), "--scale", "full"], runner=RUNNER) == 0
    assert trained == ["table1: FA, width 32, seed 4"]


def test_nothing_begins_once_the_budget_is_spent(table, trained, capsys):
    assert (run(table, "--budget", "0"), trained) == (0, [])
    assert "the budget is spent: 6 runs not begun; go on with: lit-fa table run" in capsys.readouterr().out


def test_a_cell_that_no_number_of_seeds_decides_gets_none(declared, save, trained):
    declared["cells"][0] |= {"published": {"value": 91.0, "unit": "%"}}  # one run, with a spread like ours
    declared["cells"][0]["set"] |= {"fake": {"accuracy": 91.0, "spread": 2.0}}
    path = save({**declared, "cells": declared["cells"][:1]})
    assert (run(path), len(trained), rows(path)[0].kind) == (0, 3, Kind.UNDECIDABLE)


def test_a_step_at_most_doubles_the_seeds_and_a_difference_needs_both_cells(declared, save):
    declared["cells"][0] |= {"paired_with": "BP", "published": None}
    declared["cells"][0] |= {"published_difference": {"value": -4.0, "unit": "%", "std": 0.1, "n": 3}}
    declared["cells"][0]["set"] |= {"fake": {"accuracy": 91.0, "spread": 2.0}}
    declared["cells"][1]["set"] |= {"fake": {"accuracy": 95.0, "spread": 0.4}}
    path = save(declared)
    assert main(["run", str(path), "--scale", "full"], runner=RUNNER) == 0
    wanted = seeds_wanted(rows(path), load_table(path).scale("full"))
    assert wanted == {"FA|width 32": (3, 4, 5), "BP|width 32": (3, 4, 5)}


def test_all_readings_of_a_number_get_the_seeds_that_one_of_them_needs(declared, save):
    for cell, accuracy in zip(declared["cells"], (91.0, 89.0), strict=True):
        cell |= {"published": {"value": 91.0, "unit": "%", "exact": True}, "reading_of": "the number"}
        cell["set"] |= {"fake": {"accuracy": accuracy, "spread": 0.3}}
    path = save(declared)
    assert main(["run", str(path), "--scale", "full"], runner=RUNNER) == 0
    first, second = rows(path)
    assert (first.kind, second.kind) == (Kind.UNDECIDED, Kind.DIFFERS)
    assert seeds_wanted([first, second], load_table(path).scale("full")).keys() == {first.cell.id, second.cell.id}


def test_two_seeds_do_not_show_that_no_number_decides(declared, save):
    declared["seeds"] = [0, 1]
    declared["cells"][0] |= {"published": {"value": 91.0, "unit": "%"}}
    declared["cells"][0]["set"] |= {"fake": {"accuracy": 91.0, "spread": 2.0}}
    path = save({**declared, "cells": declared["cells"][:1]})
    assert main(["run", str(path), "--scale", "full"], runner=RUNNER) == 0
    assert rows(path)[0].kind is Kind.UNDECIDABLE
    assert seeds_wanted(rows(path), load_table(path).scale("full")) == {"FA|width 32": (2,)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"paired_with": "BP", "published_difference": {"value": -4.0, "unit": "%", "std": 0.1, "n": 3}},
            "--only leaves out 'BP|width 32', which 'FA|width 32' is paired with; select both or neither",
        ),
        ({"reading_of": "BP|width 32"}, "reads the same published number as; select both or neither"),
    ],
)
def test_a_selection_without_a_cell_that_the_verdict_needs_is_refused(declared, save, trained, changes, says):
    declared["cells"][0] |= changes
    with pytest.raises(UserError, match=says.replace("|", r"\|")):
        run(save(declared), "--only", "row=FA")
    assert trained == []


def test_a_budget_that_is_spent_before_further_seeds_is_told(table, trained, capsys):
    assert main(["run", str(table), "--scale", "full"], runner=RUNNER) == 0
    trained.clear()
    assert (run(table, "--budget", "0"), trained) == (0, [])
    assert "the budget is spent: 3 runs not begun; go on with: lit-fa table run" in capsys.readouterr().out


def test_a_dry_run_names_the_further_seeds(table, trained, capsys):
    assert main(["run", str(table), "--scale", "full"], runner=RUNNER) == 0
    trained.clear()
    assert (run(table, "--dry-run"), trained) == (0, [])
    assert "would run table1: FA, width 32, seed 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seeds", "0"], "chooses the seeds itself"),
        (["--id", "abc"], "chooses the seeds itself"),
        (["--scale", "cpu"], "there are verdicts at scale full only, not at cpu"),
        (["--budget", "-1"], "--budget: -1 is not a number from 0"),
    ],
)
def test_an_option_that_contradicts_is_one_line(table, words, says):
    with pytest.raises(UserError, match=says):
        run(table, *words)


def test_uncommitted_code_is_refused_because_its_runs_do_not_count(table):
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(table.parent), *words], check=True)
    table.write_text(table.read_text() + "\n")
    with pytest.raises(UserError, match="the code has uncommitted changes, so no run counts"):
        run(table)


def test_a_table_without_the_papers_scale_is_left_out(table, declared, save, capsys):
    del declared["scales"]["full"]
    short = save(declared, "short.yaml")
    with pytest.raises(UserError, match="no table has the scale full"):
        run(short)
    assert main(["run", str(short), str(table), "--until-decided", "--budget", "0"], runner=RUNNER) == 0
    assert "short.yaml: it has no scale full" in capsys.readouterr().out
