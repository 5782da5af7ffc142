"""`lit-fa sweep run | report | emit`, with a runner that does not train."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lit_fa.commands.sweep import main
from lit_fa.errors import UserError

RUNNER = "tests.sweeps.fake_trial:run"


def run(path, *arguments):
    return main(["run", str(path), "--out", str(path.parent / "out"), *arguments], runner=RUNNER)


def records(path):
    return [json.loads(file.read_text()) for file in (path.parent / "out/trials").glob("*/record.json")]


@pytest.fixture
def wish(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return lambda **wishes: monkeypatch.setenv("FAKE_TRIAL", json.dumps(wishes))


@pytest.mark.usefixtures("wish")
@pytest.mark.parametrize("pack", ["off", "9"])
def test_a_grid_runs_to_the_end_and_the_next_command_has_nothing_to_do(declared, save, capfd, pack):
    path = save(declared)
    assert run(path, "--jobs", "2", "--pack", pack) == 0
    lines = capfd.readouterr().out.splitlines()
    assert ("--pack 9: there are only 6 trials" in lines) == (pack == "9")
    last = lines[-1]
    assert last.startswith("6 of 6 trials done, 0 of them failed, in ")
    assert "; best " in last
    assert last.endswith(f"; lit-fa sweep report {path} --out out")
    assert sorted(record["parameters"]["lr"] for record in records(path)) == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    assert run(path) == 0
    assert "start" not in capfd.readouterr().out


def test_after_kill_9_the_next_command_goes_on(declared, save, wish, capfd):
    wish(sleep=1.0)
    path = save(declared)
    code = f"import sys; from lit_fa.commands.sweep import main; sys.exit(main(sys.argv[1:], runner={RUNNER!r}))"
    words = ["run", str(path), "--out", str(path.parent / "out"), "--jobs", "2"]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, start_new_session=True)
    until = time.monotonic() + 40
    while len(records(path)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = len(records(path))
    assert 2 <= kept < 6
    wish()
    assert run(path) == 0
    assert len(records(path)) == 6
    assert "6 of 6 trials done, 0 of them failed" in capfd.readouterr().out


def test_what_no_trial_can_do_ends_the_sweep_and_costs_no_trial(declared, save, wish):
    path = save(declared)
    wish(fail="user")
    with pytest.raises(UserError, match=r"a\.B has no option 'lr'; nearest: rate"):
        run(path)
    wish()
    assert run(path) == 0


def test_a_diverged_trial_is_a_result_that_is_never_the_best_and_is_not_trained_again(declared, save, wish, capfd):
    wish(diverge=0.3)  # whose last value is the highest
    del declared["parameters"]["model"]
    path = save(declared)
    assert run(path) == 0
    printed = capfd.readouterr().out
    assert "3 of 3 trials done, 1 of them diverged, 0 of them failed" in printed
    assert "diverged: trial 2: at step 7 (the output of head)" in printed
    assert run(path) == 0
    assert main(["report", str(path), "--out", str(path.parent / "out"), "--csv", "trials.csv"]) == 0
    rows = Path("trials.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[1:3] for row in rows[1:]] == [["finished", "20.0"], ["finished", "10.0"], ["diverged", ""]]


def test_a_first_trial_that_diverges_does_not_end_the_sweep(declared, save, wish):
    wish(diverge=0.1)
    del declared["parameters"]["model"]
    assert run(save(declared)) == 0


def test_a_failed_trial_does_not_stop_the_others(declared, save, wish, capfd):
    wish(fail="0.2", on_test=True)
    assert run(save(declared)) == 1
    printed = capfd.readouterr().out
    assert "6 of 6 trials done, 2 of them failed" in printed
    assert "failed: trial 2: RuntimeError: out of luck" in printed
    assert "val/accuracy was measured on the test set" in printed


@pytest.mark.parametrize("command", ["run", "emit"])
def test_a_sweep_without_end_wants_a_count(command, declared, save):
    path = save(declared | {"method": "random"})
    with pytest.raises(UserError, match="never ends by itself; give --count N"):
        main([command, str(path), *(["--slurm"] if command == "emit" else [])])


@pytest.mark.usefixtures("wish")
def test_choosing_by_the_test_set_is_remarked_on(declared, save, capfd):
    path = save(declared | {"metric": {"name": "test/accuracy", "goal": "maximize"}})
    assert run(path, "--count", "1") == 1
    assert "note: test/accuracy chooses by the test set" in capfd.readouterr().out


@pytest.mark.usefixtures("wish")
def test_the_report_ranks_and_writes_every_trial(declared, save, capfd, tmp_path):
    path = save(declared)
    out = ["--out", str(path.parent / "out")]
    with pytest.raises(UserError, match="begin with: lit-fa sweep run"):
        main(["report", str(path), *out])
    run(path)
    capfd.readouterr()
    assert main(["report", str(path), *out, "--by", "width", "--csv", str(tmp_path / "all.csv")]) == 0
    assert "6 finished" in capfd.readouterr().out
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [row["lr"] for row in rows] == ["0.3", "0.3", "0.2", "0.2", "0.1", "0.1"]
    assert rows[0]["val/accuracy"] == "30.0"
    with pytest.raises(UserError, match=r"--by lrr: no such parameter; nearest: lr"):
        main(["report", str(path), *out, "--by", "lrr"])


def test_a_job_array_has_a_line_for_every_task(declared, save, capfd):
    path = save(declared)
    assert main(["emit", str(path), "--slurm", "--tasks", "3", "--sbatch", "time=1:00:00"]) == 0
    script = capfd.readouterr().out
    assert "#SBATCH --array=0-2" in script
    assert "#SBATCH --time=1:00:00" in script
    assert script.count(f"-m lit_fa sweep run {path} --count 6") == 3


@pytest.mark.parametrize(
    ("trainer", "words", "parameters", "gpus"),
    [
        ("accelerator: auto", [], {}, 1),
        ("accelerator: cpu", [], {}, 0),
        ("accelerator: auto", ["--trainer.accelerator=cpu"], {}, 0),
        ("accelerator: auto", ["--trainer.accelerator", "cpu"], {}, 0),
        ("accelerator: cpu", [], {"trainer.accelerator": {"values": ["cpu", "gpu"]}}, 1),
        ("accelerator: auto", [], {"trainer": {"parameters": {"accelerator": {"value": "cpu"}}}}, 0),
        ("devices: 2", [], {}, 2),
    ],
)
def test_a_task_asks_for_the_gpus_of_its_trials(declared, save, tmp_path, capfd, trainer, words, parameters, gpus):
    (tmp_path / "base.yaml").write_text(f"trainer: {{{trainer}}}\n", encoding="utf-8")
    declared["command"][-1:-1] = words
    declared["parameters"] |= parameters
    assert main(["emit", str(save(declared)), "--slurm"]) == 0
    asked = [line for line in capfd.readouterr().out.splitlines() if "--gpus-per-node" in line]
    assert asked == ([f"#SBATCH --gpus-per-node={gpus}"] if gpus else [])


def test_the_file_for_w_and_b_is_the_sweep_itself(declared, save, tmp_path):
    path = save(declared)
    assert main(["emit", str(path), "--wandb", "--to", str(tmp_path / "w.yaml")]) == 0
    assert yaml.safe_load((tmp_path / "w.yaml").read_text()) == declared


@pytest.mark.parametrize("fault", ["SIGTERM", "SIGKILL"])
def test_a_trial_whose_worker_is_ended_is_tried_again_and_never_a_failure(declared, save, wish, capfd, fault):
    wish(signal=fault, lr=0.2)
    del declared["parameters"]["model"]
    path = save(declared)
    assert run(path) == 1
    printed = capfd.readouterr().out
    assert "2 of 3 trials done, 0 of them failed" in printed
    said = {"SIGTERM": "stopped by SIGTERM", "SIGKILL": "the worker was killed by the system, twice (out of memory?)"}
    assert f"not finished: trial 1: {said[fault]}; go on with: lit-fa sweep run" in printed
    wish()
    assert run(path) == 0
    assert "3 of 3 trials done, 0 of them failed" in capfd.readouterr().out
