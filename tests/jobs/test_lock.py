"""Two processes on the same run: one wins, the other says so; whoever looks sees who is at work."""

import io
import json
import logging
import multiprocessing
import os
import re
import time

import pytest
from rich.console import Console

from lit_fa.commands.table import main
from lit_fa.jobs.lock import checkpoints_of, holder, lock_of, locked
from lit_fa.jobs.progress import reporter
from lit_fa.jobs.worker import work
from lit_fa.spec.expand import expand
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import load_table
from tests import fake_runner

RUNNER = "tests.fake_runner:run"


def claims(path):
    table = load_table(path)
    where = output_paths(table, "cpu", tree_of(table))
    return [(run, lock_of(where.target / run.file_name)) for run in expand(table, table.scale("cpu"))]


def hold(claim, held):
    with locked(claim) as other:
        assert other == ""
        held.set()
        time.sleep(60)


@pytest.fixture
def elsewhere():
    """Lets another process hold a claim, and returns that process."""
    context, started = multiprocessing.get_context("spawn"), []

    def start(claim):
        held = context.Event()
        process = context.Process(target=hold, args=(claim, held))
        process.start()
        started.append(process)
        assert held.wait(20)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_a_run_that_another_process_trains_is_left_to_it_and_the_others_are_run(declared, save, elsewhere, capfd):
    path = save(declared)
    (run, claim), *_ = claims(path)
    process = elsewhere(claim)
    outcome = path.parent / "outcome.json"
    assert main(["run", str(path), "--scale", "cpu", "--json", str(outcome)], runner=RUNNER) == 0
    printed = capfd.readouterr().out
    assert f"{run.label}: left to process {process.pid} on" in printed
    assert "3 runs finished, 0 failed, 1 left to other processes" in printed
    assert sorted(entry["status"] for entry in json.loads(outcome.read_text())) == ["finished"] * 3 + ["not run"]


def test_a_claim_ends_with_its_process_however_that_ends(tmp_path, elsewhere):
    process = elsewhere(tmp_path / "claim")
    assert holder(tmp_path / "claim").startswith(f"process {process.pid} on ")
    process.kill()
    process.join()
    assert holder(tmp_path / "claim") == ""
    with locked(tmp_path / "claim") as other:
        assert other == ""


def test_a_record_that_came_meanwhile_is_not_written_again(declared, save, fill, tmp_path):
    path = save(declared)
    (run, _), *_ = claims(path)
    record = next(file for file in fill(path, "cpu") if run.id in file.name)
    before = record.stat().st_mtime_ns
    done = work(RUNNER, run.config, {"id": run.id, "path": str(record), "seed": run.seed}, str(tmp_path / "l"))
    assert (done.elsewhere, done.reason) == ("finished by another process meanwhile", "")
    assert record.stat().st_mtime_ns == before


def test_what_killed_processes_have_left_of_finished_runs_goes_at_the_next_run(declared, save, fill, capfd):
    path = save(declared)
    record = fill(path, "cpu")[0]
    claim, folder = lock_of(record), checkpoints_of(record)
    folder.mkdir()
    for file in (claim, folder / "last.ckpt"):
        file.touch()
        os.utime(file, (1, 1))
    assert main(["run", str(path), "--scale", "cpu", "--dry-run"], runner=RUNNER) == 0
    assert folder.exists()
    assert main(["run", str(path), "--scale", "cpu"], runner=RUNNER) == 0
    assert not claim.exists()
    assert not folder.exists()


def begins_afresh(config: dict, record: dict) -> None:
    logging.getLogger("lit_fa.checkpoints.resume").warning("last.ckpt cannot be used")
    fake_runner.run(config, record)


def test_the_line_of_a_run_says_what_became_of_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    record = {"id": "a", "path": str(tmp_path / "a.json"), "seed": 0}
    done = work("tests.jobs.test_lock:begins_afresh", {}, record, str(tmp_path / "log"))
    assert re.fullmatch(r"finished in [\d.]+ s; last.ckpt cannot be used", done.summary)


def test_watching_shows_seeds_done_and_who_is_at_work(declared, save, fill, elsewhere, capfd):
    path = save(declared)
    (run, claim), *_ = claims(path)
    for file in fill(path, "cpu"):
        if run.id in file.name:
            file.unlink()
    process = elsewhere(claim)
    assert main(["watch", str(path), "--scale", "cpu"]) == 0
    printed = capfd.readouterr().out
    assert "3 of 4 runs done" in printed
    assert re.search(rf"FA .*1/2 .*seed 0: process {process.pid}", printed)
    assert "1 runs left, 1 at work, about 0:00:02" in printed


def test_the_bar_counts_runs_and_cells():
    output = Console(force_terminal=True, width=200, record=True, file=io.StringIO())
    with reporter(3, output, ["t: FA, seed 0", "t: FA, seed 1", "t: BP, seed 0"]) as shown:
        for label in ("t: FA, seed 0", "t: FA, seed 1"):
            shown.started(label)
            shown.ended(label, "finished")
    assert "2/3" in (seen := output.export_text())
    assert "cells 1/2" in seen


def test_a_logger_by_name_reaches_every_run_and_changes_no_id(declared, save, capfd):
    path = save(declared)
    ids = {run.id for run, _ in claims(path)}
    assert main(["run", str(path), "--scale", "cpu", "--logger", "csv"], runner=RUNNER) == 0
    records = [json.loads(file.read_text()) for file in (path.parent / "results/table1/cpu").glob("*.json")]
    assert {record["id"] for record in records} == ids
    assert {record["config"]["trainer"]["logger"] for record in records} == {"csv"}
