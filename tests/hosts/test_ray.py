"""A table on a Ray cluster of two nodes, each a network namespace, which share its runs; a lost node's run goes on."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_fa.commands.table import main
from tests.hosts.namespaces import ADDRESSES, Host, two_hosts, until
from tests.hosts.test_slurm import declare, records

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.slow  # two Ray nodes, and every task imports everything
PORT = 6379
HEAD = f"{ADDRESSES[0]}:{PORT}"
RULES = {"BP": "Backprop", "FA": "FeedbackAlignment"}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts with a node of one CPU each; the head is the first."""
    hosts = two_hosts(tmp_path)
    files = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # the path of a socket must be short
    try:
        for host in hosts:
            start(host, files)
        yield hosts
    finally:
        for host in hosts:
            host.delete()
        shutil.rmtree(files)


def start(host: Host, files: str) -> None:
    """Start a node, and wait until the cluster has it."""
    head = ["--head", "--port", str(PORT), "--include-dashboard", "false", "--temp-dir", files, "--disable-usage-stats"]
    words = head if host.number == 0 else ["--address", HEAD]
    words += ["--node-ip-address", host.address, "--num-cpus", "1", "--object-store-memory", "100000000", "--block"]
    tool = str(Path(sys.executable).parent / "ray")
    host.start(tool, "start", *words, log="ray")
    until(lambda: "Ray runtime started" in host.said("ray"), 120, lambda: host.said("ray"))


def emit(host: Host, table: Path) -> subprocess.Popen:
    words = ["table", "emit", str(table), "--scale", "cpu", "--out", str(table.parent / "out"), "--allow-dirty"]
    return host.start(sys.executable, "-m", "lit_fa", *words, "--ray", "--address", HEAD, log="emit")


def alone(folder: Path, **declared) -> list[dict]:
    """The records of the same table, made by this process."""
    folder.mkdir()
    table = declare(folder, **declared)
    assert main(["run", str(table), "--scale", "cpu", "--out", str(folder / "out"), "--allow-dirty"]) == 0
    return records(table)


def results(made: list[dict]) -> dict[str, object]:
    return {json.dumps([record["row"], record["seed"]]): record["metrics"] for record in made}


def test_the_runs_of_a_table_are_spread_over_two_nodes_and_collected_in_one_folder(nodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = declare(tmp_path, RULES, [0, 1], epochs=2)
    assert emit(nodes[0], table).wait(280) == 0, nodes[0].said("emit")
    said = nodes[0].said("emit")
    assert all(f"exit 0 on {host.name}" in said for host in nodes), said
    assert [record["status"] for record in records(table)] == ["finished"] * 4
    assert main(["report", str(table), "--scale", "cpu", "--out", str(tmp_path / "out")]) == 0


def test_the_run_of_a_killed_node_continues_on_the_other(nodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = nodes
    declared = {"rules": RULES, "seeds": [0], "epochs": 12}
    table = declare(tmp_path, **declared, nap=0.2)
    emitting = emit(first, table)
    until(lambda: len([*(tmp_path / "out").rglob(".*/last.ckpt")]) == 2, 200, lambda: first.said("emit"))
    second.kill()
    assert emitting.wait(280) == 0, first.said("emit")
    assert first.said("emit").count(f"exit 0 on {first.name}") == 2
    assert results(records(table)) == results(alone(tmp_path / "whole", **declared, nap=0.01))


def test_ctrl_c_stops_the_tasks_with_a_checkpoint_and_the_same_command_goes_on(nodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = declare(tmp_path, RULES, [0], epochs=12, nap=0.2)
    emitting = emit(nodes[0], table)
    until(lambda: len([*(tmp_path / "out").rglob(".*/last.ckpt")]) == 2, 200, lambda: nodes[0].said("emit"))
    emitting.send_signal(signal.SIGINT)
    assert emitting.wait(150) == 130, nodes[0].said("emit")
    assert "Traceback" not in nodes[0].said("emit")
    assert records(table) == []
    before = len((tmp_path / "counted").read_bytes())
    assert emit(nodes[0], table).wait(280) == 0, nodes[0].said("emit")
    steps = len((tmp_path / "counted").read_bytes())
    assert 0 < before < steps == 2 * 12 * 15  # no step was taken twice
