"""`lit-fa flower` on this machine: SuperLink and SuperNodes of real processes, which end with the run."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import psutil
import pytest

from lit_fa.__main__ import main
from tests.flower.experiments import checkpoint, difference, embedded, experiment

ROOT = Path(__file__).parents[2]


def flower(folder: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "lit_fa", "flower", "--config", str(folder / "experiment.yaml"), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def family(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def supernodes(process: subprocess.Popen) -> list[psutil.Process]:
    found = []
    for child in family(process):
        try:
            found += [child] if any("flower-supernode" in word for word in child.cmdline()) else []
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.slow
def test_two_supernodes_give_the_weights_of_the_embedded_run_and_leave_no_process(tmp_path: Path):
    changes = {"trainer__max_epochs": 2, "model__init_args__algorithm": {"class_path": "lit_fa.federated.FedNova"}}
    embedded(experiment(tmp_path / "embedded", **changes))
    experiment(tmp_path / "flower", **changes)
    process = flower(tmp_path / "flower", "--json", str(tmp_path / "metrics.json"))
    seen: set[psutil.Process] = set()
    while process.poll() is None:
        seen |= set(family(process))
        time.sleep(0.5)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "val/accuracy" in out
    assert "val/accuracy" in (tmp_path / "metrics.json").read_text()
    assert "round 1: 4 clients on 2 nodes" in err
    assert difference(checkpoint(tmp_path / "embedded"), checkpoint(tmp_path / "flower")) < 1e-12
    assert len(seen) > 4
    assert not [p for p in seen if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_killed_supernode_is_one_line_and_the_checkpoint_goes_on(tmp_path: Path):
    experiment(tmp_path, trainer__max_epochs=30)
    process = flower(tmp_path)
    while not [*tmp_path.rglob("*.ckpt")]:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.5)
    os.kill(supernodes(process)[0].pid, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.strip().splitlines()[-1].startswith("lit-fa: SuperNode 0 is gone; the last checkpoint stays usable")
    (kept,) = tmp_path.rglob("*.ckpt")
    rounds = int(kept.stem.split("step=")[1])
    ours = embedded(experiment(tmp_path, trainer__max_epochs=rounds + 2), ckpt_path=str(kept))
    assert ours.trainer.global_step == rounds + 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--nodes", "9"), "--nodes 9: 1 to 7 (the clients there are), or all"),
        (("--data.init_args.clients", "7000"), "7000 clients"),
        (("--trainer.devices", "2"), "set trainer.devices: 1"),
        (("--data", "datamodules.Digits", "--model", "lit_fa.modules.Classifier"), "runs a federation"),
    ],
)
def test_a_mistake_is_answered_before_anything_is_started(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    experiment(tmp_path)
    assert main(["flower", "--config", str(tmp_path / "experiment.yaml"), *words]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_an_app_for_many_machines_carries_the_experiment_and_no_dependencies(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    experiment(tmp_path)
    words = ["--config", str(tmp_path / "experiment.yaml"), "--nodes", "all", "--app", str(tmp_path / "app")]
    assert main(["flower", *words]) == 0
    assert "flwr run" in capsys.readouterr().out
    app = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())
    assert app["project"]["dependencies"] == []
    config = app["tool"]["flwr"]["app"]["config"]
    assert config["nodes"] == 7
    assert "quantity_skew" in config["experiment"]
