"""A table's missing runs for a cluster, collected from one results folder; a run that two want is trained once."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lit_fa.commands.table import main
from lit_fa.errors import UserError
from lit_fa.jobs.emit import emit
from lit_fa.jobs.on_ray import on_ray
from lit_fa.jobs.slurm import check_time_limit, job_array, needs_of
from lit_fa.jobs.worker import work

RUNNER = "tests.fake_runner:run"


def emitted(path, *arguments) -> str:
    target = path.parent / "emitted"
    assert main(["emit", str(path), "--scale", "cpu", "--to", str(target), *arguments]) == 0
    return target.read_text()


def test_every_line_of_a_job_array_runs_one_run_of_its_own(declared, save, tmp_path):
    path = save(declared)
    script = emitted(path, "--slurm", "--out", str(tmp_path / "shared"))
    lines = [line for line in script.splitlines() if " table run " in line]
    assert f"#SBATCH --array=0-{len(lines) - 1}" in script
    ids = {line.rstrip("'").split()[-1] for line in lines}
    assert len(ids) == len(lines) > 1
    task = script.replace('eval "$', 'eval "echo $')  # the words that would run, as the shell reads them
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "1"}
    said = subprocess.run(["bash", "-c", task], env=environment, capture_output=True, text=True, check=True).stdout
    words = said.split()
    assert words[1:4] == ["-m", "lit_fa", "table"]
    assert main(words[4:], runner=RUNNER) == 0
    (record,) = (tmp_path / "shared").rglob("*.json")
    assert json.loads(record.read_text())["id"] == words[-1]
    assert words[-1] not in emitted(path, "--slurm", "--out", str(tmp_path / "shared"))


def test_a_task_asks_for_the_gpus_of_its_scale_and_is_queued_again():
    line = [["lit-fa", "table"]]
    gpus, _ = needs_of([{"trainer": {"accelerator": "auto"}}, {"trainer": {"devices": "4"}}], "full")
    assert "#SBATCH --gpus-per-node=4\n#SBATCH --time=1" in job_array(line, "x", ["time=1"], gpus)
    assert "#SBATCH --requeue" in job_array(line, "x")
    assert "gpus-per-node" not in job_array(line, "x", ["gres=gpu:a100:1"], gpus)
    assert "gpus" not in job_array(line, "x", [], needs_of([{"trainer": {"accelerator": "auto"}}], "cpu")[0])
    assert needs_of([{"trainer": {"accelerator": "cpu", "devices": 2, "num_nodes": 2}}], "full") == (0, 2)


@pytest.mark.parametrize(("signum", "requeued"), [(signal.SIGUSR1, ["7"]), (signal.SIGTERM, [])])
def test_a_task_near_its_time_limit_asks_for_another_turn_and_a_cancelled_one_does_not(
    signum: int, requeued: list[str], tmp_path: Path
):
    waits = tmp_path / "waits.py"
    waits.write_text(
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(143))\n"
        "print('up', flush=True)\ntime.sleep(60)\n",
        encoding="utf-8",
    )
    script = job_array([["lit-fa", "table"]], "x").replace("-m lit_fa table", str(waits))
    control = tmp_path / "scontrol"  # stands for Slurm's
    control.write_text(f'#!/bin/sh\necho "$2" >> {tmp_path}/requeued\n', encoding="utf-8")
    control.chmod(0o755)
    place = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    task = subprocess.Popen(["bash", "-c", script], env=os.environ | place, stdout=subprocess.PIPE, text=True)
    assert task.stdout.readline() == "up\n"
    task.send_signal(signum)
    assert task.wait(30) == 143
    said = tmp_path / "requeued"
    assert (said.read_text(encoding="utf-8").split() if said.exists() else []) == requeued


@pytest.mark.parametrize("options", [["time=3"], ["time=10", "signal=B:USR1@600"], ["time=2:30"], ["time=0:02:59"]])
def test_a_time_limit_that_leaves_no_time_to_train_is_refused(options: list[str]):
    with pytest.raises(UserError, match="would not train: give it more time"):
        check_time_limit(options)


@pytest.mark.parametrize("options", [["time=4"], ["time=2", "signal=B:USR1@30"], ["time=1-0"], ["time=0"], ["mem=1"]])
def test_a_longer_time_limit_is_taken(options: list[str]):
    check_time_limit(options)


def test_a_task_has_the_exit_code_of_its_run(tmp_path: Path):
    ends = tmp_path / "ends.py"
    ends.write_text("raise SystemExit(3)", encoding="utf-8")
    script = job_array([["lit-fa", "table"]], "x").replace("-m lit_fa table", str(ends))
    assert subprocess.run(["bash", "-c", script], env=os.environ | {"SLURM_ARRAY_TASK_ID": "0"}).returncode == 3


def test_a_run_of_several_nodes_is_not_a_task_of_an_array():
    options = SimpleNamespace(slurm=True, ray=False, wandb=False, sbatch=[], to=None)
    with pytest.raises(UserError, match="srun lit-fa fit"):
        emit([["lit-fa"]], options, "x", sweep_file="", nodes=2)


def test_a_run_that_the_table_does_not_have_is_named(declared, save):
    with pytest.raises(UserError, match="--id: unknown 'abcdef'"):
        main(["run", str(save(declared)), "--scale", "cpu", "--id", "abcdef"], runner=RUNNER)


def test_w_and_b_hands_out_the_missing_runs(declared, save):
    sweep = yaml.safe_load(emitted(save(declared), "--wandb"))
    assert sweep["command"][-1] == "${args}"
    assert sweep["command"][2:6] == ["-m", "lit_fa", "table", "run"]
    assert len(set(sweep["parameters"]["id"]["values"])) > 1


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install 'lit-fa"):
        on_ray([["lit-fa"]], "auto")


def test_without_a_cluster_it_says_how_to_start_one(monkeypatch):
    def init(**_):
        raise ConnectionError

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init))
    with pytest.raises(UserError, match="ray start --head"):
        on_ray([["lit-fa"]], "auto")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "ray://127.0.0.1:1"])
def test_an_address_that_nobody_answers_is_refused_at_once(address: str, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace())
    with pytest.raises(UserError, match=f"no Ray cluster at {address} .*: start one"):
        on_ray([["lit-fa"]], address)


def test_an_address_without_a_port_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace())
    with pytest.raises(UserError, match="--address head: give HOST:PORT, auto or local"):
        on_ray([["lit-fa"]], "head")


class Ray(types.SimpleNamespace):
    """Runs every task at once, in this process; nothing is left of the node of a task of the command `lost`."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self, gpus: int):
        super().__init__(asked={}, init=lambda **_: None, shutdown=lambda: None)
        self.nodes = lambda: [{"Alive": True, "Resources": {"GPU": gpus}}]

    def remote(self, **asked):
        self.asked = asked
        return lambda function: types.SimpleNamespace(remote=lambda words, *_: words[-1])

    def wait(self, tasks):
        return tasks[:1], tasks[1:]

    def get(self, task):
        if task == "lost":
            raise self.exceptions.RayError
        return 0, "elsewhere", "finished"


def test_a_task_that_ray_loses_is_said_and_the_others_go_on(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", Ray(gpus=0))
    assert on_ray([["lit-fa", "lost"], ["lit-fa", "whole"]], "auto") == 1
    lost, whole, end = capsys.readouterr().out.splitlines()
    assert lost == "[1/2] lit-fa lost: lost by Ray (RayError); the last checkpoint of its run stays usable"
    assert whole == "[2/2] lit-fa whole: exit 0 on elsewhere, finished"
    assert end == "1 of 2 tasks have failed; the same command starts what is missing"


@pytest.mark.parametrize(("has", "asked"), [(4, 2), (1, 0)])
def test_a_task_on_ray_asks_for_the_gpus_of_its_run_if_a_node_has_them(has: int, asked: int, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", ray := Ray(gpus=has))
    assert on_ray([["lit-fa", "whole"]], "auto", gpus=2) == 0
    assert ray.asked["num_gpus"] == asked
    assert ("no node of the cluster has 2 GPUs: tasks ask for none" in capsys.readouterr().out) == (not asked)


def record_head(folder: Path) -> dict:
    return {"id": "a", "seed": 0, "path": str(folder / "a.json")}


def test_two_processes_want_one_run_and_one_wins(tmp_path):
    slow = ("tests.fake_runner:run", {"fake": {"sleep": 5}}, record_head(tmp_path), str(tmp_path / "one.log"))
    other = multiprocessing.get_context("spawn").Process(target=work, args=slow)
    other.start()
    while not (tmp_path / "a.tries").is_file():
        assert other.is_alive()
    lost = work(RUNNER, {}, record_head(tmp_path), str(tmp_path / "two.log"))
    assert lost.reason == ""
    assert lost.elsewhere.startswith(f"left to process {other.pid} on ")
    other.join()
    assert work(RUNNER, {}, record_head(tmp_path), str(tmp_path / "two.log")).reason == ""
    assert len((tmp_path / "a.tries").read_text().splitlines()) == 1  # the record that is there is not made again
    assert not list(tmp_path.glob(".*.claim"))
