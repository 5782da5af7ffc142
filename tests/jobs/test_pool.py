"""Running what is missing, and nothing else, whatever happened before."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from lit_fa.commands.table import main
from lit_fa.errors import UserError
from lit_fa.jobs.packing import Packing, Queue, packed
from lit_fa.jobs.pool import run_jobs
from lit_fa.jobs.progress import reporter
from tests.fake_runner import tries_of

RUNNER = "tests.fake_runner:run"


def records(path, scale="cpu"):
    return sorted((path.parent / "results" / path.stem / scale).glob("*.json"))


def run(path, *arguments):
    return main(["run", str(path), "--scale", "cpu", *arguments], runner=RUNNER)


def test_a_run_leaves_one_record_for_every_cell_and_seed(declared, save, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    path = save(declared)
    assert run(path, "--jobs", "2", "--json", str(path.parent / "outcome.json")) == 0
    data = [json.loads(file.read_text()) for file in records(path)]
    assert sorted((d["row"], d["seed"]) for d in data) == [("BP", 0), ("BP", 1), ("FA", 0), ("FA", 1)]
    assert all(d["id"] in file.name for d, file in zip(data, records(path), strict=True))
    assert data[0]["config"]["trainer"]["max_epochs"] == 10
    assert {d["commit"] for d in data} == {"unknown"}
    printed = capfd.readouterr().out
    assert "0 of 4 runs done, 4 to run" in printed
    assert "[4/4]" in printed
    assert "training" not in printed  # what a run prints is in its log
    assert f"training {data[0]['id']}" in (path.parent / "scratch" / "logs" / f"{data[0]['id']}.log").read_text()
    outcome = json.loads((path.parent / "outcome.json").read_text())
    assert [entry["status"] for entry in outcome] == ["finished"] * 4
    # Two workers took all runs, with one thread each, without torch; the parent's threads are as they were.
    tries = [line.split() for d in data for line in tries_of(records(path)[0].parent, d["id"])]
    assert len({process for process, *_ in tries}) <= 2
    assert {tuple(rest) for _, *rest in tries} == {("1", "False")}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_the_pool_asks_again_where_there_is_nothing_to_do_yet():
    jobs = iter([None, None])
    assert list(run_jobs(jobs, workers=1, reporter=reporter(0, Console()), runner=RUNNER)) == []
    assert next(jobs, "asked to the end") == "asked to the end"


def test_runs_of_one_group_are_taken_together_and_a_gap_ends_a_pack():
    queue = Queue(iter(["a1", "a2", "a3", "b1", None, "b2", "c", "c"]), Packing(2, lambda job: job[0].strip("c")))
    taken = []
    while not queue.ended:
        taken.append(queue.take())
    assert taken == [["a1", "a2"], ["a3"], ["b1"], ["b2"], ["c"], ["c"], []]


def test_packs_of_auto_leave_work_for_every_worker():
    jobs = [{"model": {"class_path": "Classifier", "init_args": {"network": name}}} for name in "ababa"]
    ordered, packing = packed(jobs, 0, 2, lambda job: job)
    assert [job["model"]["init_args"]["network"] for job in ordered] == ["a", "a", "a", "b", "b"]
    assert packing.most == 3
    assert packing.group(jobs[0]) == packing.group(jobs[2]) != packing.group(jobs[1])
    assert packed(jobs, 1, 2, lambda job: job) == (jobs, Packing())  # off


@pytest.mark.parametrize("pack", ["auto", "3", "40"])
def test_a_pack_has_every_outcome_of_its_runs(declared, save, capfd, pack):
    declared["cells"] = [{"row": kind, "set": {"fake.fail": kind}} for kind in ("error", "terminated once", "fine")]
    declared["scales"]["cpu"]["seeds"] = [0]
    model = {"class_path": "lit_fa.modules.Classifier", "init_args": {"network": "mlp"}}
    for cell in declared["cells"]:
        cell["set"]["model"] = model
    declared["cells"][2]["set"]["model"] = {"class_path": "lit_fa.modules.FederatedClassifier"}
    path = save(declared)
    assert run(path, "--pack", pack, "--json", str(path.parent / "outcome.json")) == 1
    printed = capfd.readouterr().out
    assert ("--pack 40: there are only 3 runs" in printed) == (pack == "40")
    assert "--pack: 1 run is trained alone: the clients of a FederatedClassifier are one program already\n" in printed
    assert "the worker of table1: terminated once" in printed  # tried again, alone
    outcome = json.loads((path.parent / "outcome.json").read_text(encoding="utf-8"))
    assert [entry["status"] for entry in outcome] == ["failed", "finished", "finished"]


def test_a_second_run_has_nothing_to_do(declared, save, fill, capfd):
    path = save(declared)
    before = [file.stat().st_mtime_ns for file in fill(path, "cpu")]
    assert run(path) == 0
    assert "4 of 4 runs done, 0 to run" in capfd.readouterr().out
    assert [file.stat().st_mtime_ns for file in records(path)] == before


def test_a_half_written_record_is_named_and_run_again(declared, save, fill, capfd):
    path = save(declared)
    broken = fill(path, "cpu")[1]
    broken.write_text('{"id": "abc", "met')
    assert run(path) == 0
    assert f"skipped {broken.name}: half-written" in capfd.readouterr().out
    assert json.loads(broken.read_text())["status"] == "finished"


def test_failures_do_not_stop_the_others_and_are_listed(declared, save, capfd):
    declared["cells"] = [{"row": kind, "set": {"fake.fail": kind}} for kind in ("error", "exit 1")] + [{"row": "fine"}]
    declared["scales"]["cpu"]["seeds"] = [0]
    path = save(declared)
    assert run(path) == 1
    printed = capfd.readouterr().out
    assert "1 runs finished, 2 failed" in printed
    assert "failed: table1: error, seed 0: RuntimeError: out of luck (log: " in printed
    assert "failed: table1: exit 1, seed 0: exit 1: error: no such option" in printed
    assert [file.name.split("__")[0] for file in records(path)] == ["fine"]


def test_a_mendable_failure_is_exit_code_two(declared, save, capfd):
    declared["cells"] = [{"row": "user", "set": {"fake.fail": "user"}}, {"row": "fine"}]
    path = save(declared)
    assert run(path, "--seeds", "0") == 2
    assert "user, seed 0: batch_size 0 is too small; write at least 1 (log" in capfd.readouterr().out
    assert len(records(path)) == 1


def test_a_parser_that_exits_with_two_has_said_what_to_mend(declared, save, capfd):
    declared["cells"] = [{"row": "exit", "set": {"fake.fail": "exit 2"}}]
    assert run(save(declared), "--seeds", "0") == 2
    assert "exit 2: error: no such option" in capfd.readouterr().out


def test_a_diverged_run_is_a_result_and_is_not_run_again(declared, save, capfd):
    lost = {"step": 40, "first": "the output of head"}
    declared["cells"] = [{"row": "wild", "set": {"fake.diverged": lost}}, {"row": "tame"}]
    path = save(declared)
    assert run(path, "--json", str(path.parent / "outcome.json")) == 0
    printed = capfd.readouterr().out
    assert "wild, seed 0: diverged at step 40 (the output of head)" in printed
    assert "2 runs finished, 2 diverged, 0 failed" in printed
    outcome = json.loads((path.parent / "outcome.json").read_text(encoding="utf-8"))
    assert [entry["status"] for entry in outcome] == ["diverged", "finished", "diverged", "finished"]
    assert run(path) == 0
    assert "4 of 4 runs done, 0 to run" in capfd.readouterr().out


def test_an_error_after_the_record_of_a_divergence_is_that_divergence_and_no_failure(declared, save, capfd):
    wish = {"diverged": {"step": 40, "first": "the inputs"}, "fail": "afterwards"}
    declared["cells"] = [{"row": "wild", "set": {"fake": wish}}]
    assert run(save(declared), "--seeds", "0") == 0
    assert "0 runs finished, 1 diverged, 0 failed" in capfd.readouterr().out


def test_a_runner_that_is_not_there_is_named(declared, save, capfd):
    assert main(["run", str(save(declared)), "--only", "row=FA"], runner="tests.fake_runner:fit") == 2
    assert "the runner 'tests.fake_runner:fit' cannot be loaded" in capfd.readouterr().out


def test_a_killed_worker_is_replaced_and_its_runs_are_tried_once_more(declared, save, capfd):
    kinds = ("killed once", "killed")
    declared["cells"] = [{"row": kind, "set": {"fake.fail": kind}} for kind in kinds] + [{"row": "fine"}]
    path = save(declared)
    assert run(path, "--jobs", "2", "--seeds", "0") == 1
    printed = capfd.readouterr().out
    assert "the worker of table1: killed once, seed 0 was killed by the system; trying once more" in printed
    assert "2 runs finished, 0 failed, 1 not finished" in printed
    said = "not finished: table1: killed, seed 0: the worker was killed by the system, twice (out of memory?)"
    assert f"{said}; go on with: lit-fa table run {path} --scale cpu --jobs 2 --seeds 0" in printed
    assert [file.name.split("__")[0] for file in records(path)] == ["fine", "killed-once"]


def started(path, *arguments):
    """The command in a process of its own, with nothing of the test's in its main module."""
    code = f"import sys; from lit_fa.commands.table import main; sys.exit(main(sys.argv[1:], runner={RUNNER!r}))"
    command = [sys.executable, "-c", code, "run", str(path), "--scale", "cpu", *arguments]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, start_new_session=True, **output)


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the runs did not come this far"
        time.sleep(0.02)


def slow(declared, save):
    declared["cells"] = [{"row": f"cell {i}", "set": {"a": i, "fake.sleep": 0.4 if i < 2 else 4.0}} for i in range(4)]
    declared["scales"]["cpu"]["seeds"] = [0]
    return save(declared)


def test_after_kill_9_the_next_command_runs_only_what_is_missing(declared, save, capfd):
    path = slow(declared, save)
    process = started(path, "--jobs", "2")
    folder = path.parent / "results/table1/cpu"
    wait_for(lambda: len(list(folder.glob("*.tries"))) == 4 and len(records(path)) == 2)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(alive(worker) for worker in workers_of(folder)), seconds=10)
    kept = {file: file.stat().st_mtime_ns for file in records(path)}
    assert len(kept) == 2
    assert run(path, "--jobs", "2") == 0
    assert "2 of 4 runs done, 2 to run" in capfd.readouterr().out
    assert len(records(path)) == 4
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def workers_of(folder) -> set[int]:
    return {int(line.split()[0]) for file in folder.glob("*.tries") for line in file.read_text().splitlines()}


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("signum", "whole_group"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)]
)
def test_a_signal_stops_the_workers_and_the_parent_says_how_to_go_on(signum, whole_group, declared, save):
    path = slow(declared, save)
    process = started(path, "--jobs", "2")
    folder = path.parent / "results/table1/cpu"
    wait_for(lambda: len(list(folder.glob("*.tries"))) == 4 and len(records(path)) == 2)
    # a terminal and a workflow manager send it to the workers as well
    os.killpg(process.pid, signum) if whole_group else process.send_signal(signum)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + signum
    said = f"interrupted: 2 of 4 runs finished; go on with: lit-fa table run {path} --scale cpu --jobs 2"
    assert said in printed
    assert "Traceback" not in printed
    assert "leaked" not in printed
    assert len(records(path)) == 2
    assert not any(alive(worker) for worker in workers_of(folder))


def test_a_worker_that_gets_sigterm_alone_goes_on_and_its_run_is_never_a_failure(declared, save, capfd):
    path = slow(declared, save)
    declared["cells"][0]["set"]["fake.fail"] = "terminated"
    declared["cells"][1]["set"]["fake.fail"] = "terminated once"
    declared["cells"] = declared["cells"][:2]
    path = save(declared)
    assert run(path, "--json", str(path.parent / "outcome.json")) == 1
    printed = capfd.readouterr().out
    assert "1 runs finished, 0 failed, 1 not finished" in printed
    assert "not finished: table1: cell 0, seed 0: stopped by SIGTERM; go on with: lit-fa table run" in printed
    outcome = json.loads((path.parent / "outcome.json").read_text(encoding="utf-8"))
    assert [entry["status"] for entry in outcome] == ["not finished", "finished"]


def test_a_dry_run_says_what_would_run_and_writes_nothing(declared, save, capfd):
    path = save(declared)
    assert run(path, "--dry-run", "--only", "row=FA,column=width 32") == 0
    assert capfd.readouterr().out.count("would run table1: FA, width 32") == 2
    assert {file.name for file in path.parent.iterdir()} == {"base.yaml", "table1.yaml"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--jobs", "0"], "--jobs: 0 is not a whole number from 1"),
        (["--pack", "0"], "--pack: '0' is not auto, off or a whole number from 1 to 1024"),
        (["--pack", "some"], "--pack: 'some' is not auto, off or a whole number"),
        (["--only", "FA"], "write row=LABEL"),
        (["--only", "row=PB"], "nearest: BP"),
        (["--seeds", "one"], "write whole numbers"),
        (["--seeds", "9"], "no seed 9"),
        (["--scale", "cpuu"], "nearest: cpu"),
    ],
)
def test_a_wrong_argument_is_one_line(declared, save, arguments, says):
    with pytest.raises(UserError, match=says):
        run(save(declared), *arguments)
