"""Two hosts on one machine: network namespaces with a link between them; needs root and iproute2."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

ADDRESSES = ("10.213.0.1", "10.213.0.2")
ROOT = str(Path(__file__).resolve().parents[2])
PORT = 29500  # of a namespace's own


class Host:
    """A network namespace with its processes."""

    def __init__(self, number: int, folder: Path):
        """Make it, with a loopback device."""
        self.number, self.folder, self.address = number, folder, ADDRESSES[number]
        self.name, self.device = f"litfa{os.getpid()}h{number}", f"lf{os.getpid() % 100000}h{number}"
        self.started: list[subprocess.Popen] = []
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words: str) -> None:
        """A command of `ip` in the namespace."""
        ip("-n", self.name, *words)

    def start(self, *words: str, log: str = "said", environment: dict[str, str] | None = None) -> subprocess.Popen:
        """Start a command there, in a session of its own and under a host name of its own."""
        named = f'hostname {self.name}; exec "$@"'
        inside = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", named, "sh", *words]
        variables = os.environ | {"GLOO_SOCKET_IFNAME": self.device, "PYTHONPATH": ROOT} | (environment or {})
        with open(self.folder / f"{log}.{self.number}", "a", encoding="utf-8") as file:
            process = subprocess.Popen(
                inside, cwd=self.folder, env=variables, stdout=file, stderr=file, start_new_session=True
            )
        self.started.append(process)
        return process

    def torchrun(self, *words: str, environment: dict[str, str] | None = None) -> subprocess.Popen:
        """Start this host's rank of a `lit-fa` command."""
        place = ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(self.number)]
        place += ["--master-addr", ADDRESSES[0], "--master-port", str(PORT)]
        return self.start(
            sys.executable, "-m", "torch.distributed.run", *place, "-m", "lit_fa", *words, environment=environment
        )

    def said(self, log: str = "said") -> str:
        """What its commands have printed."""
        return (self.folder / f"{log}.{self.number}").read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """End everything that was started there, without a word."""
        inside = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split()
        for pid in inside:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for process in self.started:
            process.wait(30)

    def delete(self) -> None:
        """End everything, and remove the namespace with its end of the link."""
        self.kill()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


def two_hosts(folder: Path) -> tuple[Host, Host]:
    """Two hosts with a link; skips the test where they cannot be made."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("network namespaces need root, ip and unshare")
    if subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not allowed here")
    first, second = Host(0, folder), Host(1, folder)
    ip("link", "add", first.device, "netns", first.name, "type", "veth", "peer", second.device, "netns", second.name)
    for host in (first, second):
        host.ip("address", "add", f"{host.address}/24", "dev", host.device)
        host.ip("link", "set", host.device, "up")
    return first, second


def ip(*words: str) -> None:
    """A command of iproute2."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def until(condition: Callable[[], bool], seconds: float, why: Callable[[], str] = str) -> None:
    """Wait."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {why()}"
        time.sleep(0.3)
