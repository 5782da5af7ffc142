"""Two hosts, each a network namespace: training over both, a host that is lost, Flower, and a table of both."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lit_fa.__main__ import main
from lit_fa.checkpoints import files
from tests.contract.losing import classifier, declared
from tests.gradients import largest_difference
from tests.hosts.namespaces import Host, two_hosts, until
from tests.hosts.test_slurm import declare

pytestmark = pytest.mark.slow  # two processes that import everything, and more


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    made = two_hosts(tmp_path)
    yield made
    for host in made:
        host.delete()


def write(folder: Path, strategy: str | dict, rule: str, nap: float = 0.0) -> dict:
    """The config of a run with one rank on each of two hosts."""
    config = declared(folder, strategy, 1, *classifier(rule))
    config["trainer"] |= {"num_nodes": 2, "precision": "64-true"}
    if nap:
        config["trainer"]["callbacks"].append({"class_path": "tests.hosts.naps.Nap", "init_args": {"seconds": nap}})
    (folder / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return config


QUIET = {"SIGNALLED": "", "SIGNUM": "0"}


def of_one_process(folder: Path, config: dict, monkeypatch: pytest.MonkeyPatch, *more: str) -> dict:
    """The checkpoint of the same run in one process."""
    folder.mkdir()
    config["trainer"] |= {"num_nodes": 1, "strategy": "auto", "default_root_dir": str(folder)}
    config["trainer"]["callbacks"][0]["init_args"]["dirpath"] = str(folder)
    (folder / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", "--config", str(folder / "run.yaml"), *more]) == 0
    return files.read(folder / "end.ckpt")


@pytest.mark.parametrize(
    ("strategy", "rule"),
    [("ddp", "FeedbackAlignment"), ("fsdp2", "FeedbackAlignment"),
     ("layer_parallel", "DirectFeedbackAlignment")],
)  # fmt: skip
def test_a_run_over_two_hosts_is_that_of_one_process(
    strategy: str, rule: str, hosts: tuple[Host, Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = write(tmp_path, strategy, rule)
    running = [host.torchrun("fit", "--config", "run.yaml", environment=QUIET) for host in hosts]
    codes = [process.wait(280) for process in running]
    assert codes == [0, 0], hosts[0].said()[-3000:] + hosts[1].said()[-3000:]
    two = files.read(tmp_path / "end.ckpt")
    one = of_one_process(tmp_path / "one", config, monkeypatch)
    assert two["global_step"] == one["global_step"]
    # float64: the ranks add their halves of a batch in another order. 48 steps make 1.1e-13 of it, float32 up to 1.7e-5
    assert largest_difference(two["state_dict"], one["state_dict"]) < 1e-12


@pytest.mark.parametrize("lost", ["killed", "cut off"])
def test_a_lost_host_ends_the_other_with_one_line_and_the_run_continues_without_it(
    lost: str, hosts: tuple[Host, Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    timed = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"timeout": "0:00:20"}}
    config = write(tmp_path, timed, "DirectFeedbackAlignment", nap=0.5)
    first, second = hosts
    running = [host.torchrun("fit", "--config", "run.yaml", environment=QUIET) for host in hosts]
    until((tmp_path / "kept.ckpt").is_file, 200, first.said)
    if lost == "cut off":
        second.ip("link", "set", second.device, "down")
    second.kill()
    assert running[0].wait(120) == 1  # of torchrun, whose worker has ended with 2
    said = [line for line in first.said().splitlines() if line.startswith("lit-fa: ")]
    (line,) = said
    state = "is gone" if lost == "killed" else "has not answered within the strategy's timeout"
    assert f"another rank of this run {state}; the last checkpoint stays usable" in line
    config["trainer"]["callbacks"] = config["trainer"]["callbacks"][:2]
    kept = str(tmp_path / "kept.ckpt")
    assert of_one_process(tmp_path / "one", config, monkeypatch, "--ckpt_path", kept)["global_step"] == 48


def test_two_hosts_make_one_table(hosts: tuple[Host, Host], tmp_path: Path):
    table = declare(tmp_path, {"BP": "Backprop", "DFA": "DirectFeedbackAlignment"}, [0, 1], epochs=2)
    words = ["table", "run", str(table), "--scale", "cpu", "--out", str(tmp_path / "out"), "--allow-dirty"]
    running = [host.start(sys.executable, "-m", "lit_fa", *words) for host in hosts]
    codes = [process.wait(280) for process in running]
    assert codes == [0, 0], hosts[0].said()[-3000:] + hosts[1].said()[-3000:]
    records = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((tmp_path / "out").rglob("*.json"))]
    assert [record["status"] for record in records] == ["finished"] * 4
    said = first, second = hosts[0].said(), hosts[1].said()
    assert all("finished in" in text for text in said)  # each has trained some, and left the others to its peer
    assert sum(text.count("finished in") for text in (first, second)) == 4


def test_flower_over_two_hosts_with_tls_gives_the_weights_of_one_process(hosts: tuple[Host, Host], tmp_path: Path):
    pytest.importorskip("flwr", reason="the extra `flower` is not installed")
    from lit_fa.flower.certificates import make
    from lit_fa.flower.keeper import REPORT
    from tests.flower.experiments import checkpoint, difference, embedded, experiment

    first, report, link = hosts[0], tmp_path / "report.json", f"{hosts[0].address}:8000"
    embedded(experiment(tmp_path / "embedded", trainer__max_epochs=1))
    experiment(tmp_path / "flower", trainer__max_epochs=1)
    words = ["--config", str(tmp_path / "flower" / "experiment.yaml"), "--nodes", "2", "--app", str(tmp_path / "app")]
    assert main(["flower", *words]) == 0
    tools = str(Path(sys.executable).parent)
    certificates = [make(tmp_path / f"certificates{host.number}", host.address) for host in hosts]
    trusted = str(certificates[0].authority)
    (tmp_path / "flwr").mkdir()
    entry = f'[superlink.two]\naddress = "{link}"\nroot-certificates = "{trusted}"\n'
    (tmp_path / "flwr" / "config.toml").write_text(f'[superlink]\ndefault = "two"\n\n{entry}', encoding="utf-8")
    own = {"FLWR_HOME": str(tmp_path / "flwr"), REPORT: str(report), "FLWR_TELEMETRY_ENABLED": "0"}
    own |= {"FLWR_DISABLE_UPDATE_CHECK": "1", "PATH": f"{tools}:{os.environ['PATH']}"}
    offline = ["--disable-runtime-dependency-installation", "--port", "8000"]
    started = ["flower-superlink", "--host", first.address, *certificates[0].served, *offline]
    first.start(*started, log="link", environment=own)
    for host, its in zip(hosts, certificates, strict=True):
        config = f"partition-id={host.number} num-partitions=2"
        place = ["--superlink", link, "--root-certificates", trusted, "--port", "8001", "--node-config", config]
        host.start("flower-supernode", "--host", host.address, *its.served, *place, log="node", environment=own)

    def submitted() -> bool:  # the SuperLink needs a while until it listens
        return first.start("flwr", "run", str(tmp_path / "app"), "two", log="run", environment=own).wait(120) == 0

    until(submitted, 120, lambda: first.said("run") + first.said("link"))
    until(  # three starts of Python with Lightning one after another; 133 s in all beside four other processes
        lambda: report.is_file() and bool(report.read_text()), 300, lambda: first.said("link") + hosts[1].said("node")
    )
    assert "metrics" in json.loads(report.read_text(encoding="utf-8"))
    assert difference(checkpoint(tmp_path / "embedded"), checkpoint(tmp_path / "flower")) < 1e-12
