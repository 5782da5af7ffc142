"""A run whose trainer starts ranks: it has a process of its own, which ends as its worker is told to."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_fa.commands.table import main
from lit_fa.errors import RanksNeeded
from lit_fa.jobs import own_process
from lit_fa.jobs.own_process import run_alone
from lit_fa.stopping import Stopped, exit_code_of_rank

RUNNER = "tests.fake_runner:run_with_ranks"


@pytest.fixture
def record(tmp_path, monkeypatch) -> dict:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return {"path": str(tmp_path / "r.json"), "id": "0", "seed": 0}


def gone(pid: int) -> bool:
    """No process of that number runs, within a few seconds."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def waiting(path: Path) -> int:
    """The number of the rank, once it runs."""
    while not (path.is_file() and path.read_text(encoding="utf-8")):
        time.sleep(0.05)
    return int(path.read_text(encoding="utf-8"))


def test_a_table_with_ranks_is_run_to_its_records(declared, save, capfd):
    path = save(declared)
    assert main(["run", str(path), "--scale", "smoke", "--out", str(path.parent / "out")], runner=RUNNER) == 0
    assert "2 runs finished, 0 failed" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("wish", "error", "said"),
    [
        ("user", SystemExit, "2"),
        ("error", SystemExit, "1"),
        ("killed", RuntimeError, "killed by SIGKILL: a rank failed"),
        ("terminated", Stopped, "stopped, as its ranks have"),
    ],
)
def test_the_end_of_the_process_is_the_end_of_the_run(wish, error, said, record, capfd):
    with pytest.raises(error, match=said):
        run_alone(RUNNER, {"fake": {"fail": wish}}, record)
    printed = "".join(capfd.readouterr())
    assert ("write at least 1" in printed) == (wish == "user")
    assert ("Traceback" in printed) == (wish == "error")


def test_sigterm_is_handed_on_and_no_rank_is_left(record, tmp_path):
    def ask() -> None:
        waiting(tmp_path / "rank")
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Stopped, match="as its ranks have"):
        run_alone(RUNNER, {"fake": {"wait": True}}, record)
    asking.join()
    assert gone(waiting(tmp_path / "rank"))
    assert not Path(record["path"]).exists()


def test_a_process_of_a_run_ends_with_its_worker(record, tmp_path):
    words = [sys.executable, "-m", own_process.__name__, RUNNER, json.dumps([{"fake": {"wait": True}}, record])]
    script = f"import subprocess, time; print(subprocess.Popen({words!r}).pid, flush=True); time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    run = int(worker.stdout.readline())
    rank = waiting(tmp_path / "rank")
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert gone(run)
    os.kill(rank, signal.SIGKILL)  # a real one looks for its parent as well


def test_only_a_worker_needs_a_process_for_ranks(monkeypatch):
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    from lit_fa.callbacks.interruption import check_process

    def trainer(ranks: int) -> SimpleNamespace:
        launcher = _SubprocessScriptLauncher(LightningEnvironment(), ranks, 1)
        return SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))

    check_process(trainer(2))
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    check_process(trainer(1))
    check_process(SimpleNamespace(strategy=SimpleNamespace(launcher=None)))
    with pytest.raises(RanksNeeded):
        check_process(trainer(2))


@pytest.mark.parametrize(
    ("variables", "said", "code"),
    [
        ({}, "interrupted after step 6", 143),
        ({"LOCAL_RANK": "0"}, "interrupted after step 6", 143),
        ({"LOCAL_RANK": "1"}, "interrupted after step 6", 0),
        ({"LOCAL_RANK": "1"}, "", 143),
        ({"LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "a"}, "interrupted after step 6", 143),
    ],
)
def test_a_rank_that_has_not_agreed_to_stop_ends_with_an_error(variables, said, code, monkeypatch):
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert exit_code_of_rank(Stopped(signal.SIGTERM, said)) == code
