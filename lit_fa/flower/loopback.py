"""A SuperLink and its SuperNodes on this machine, started for one run and always ended with it.

Loopback is open to every user of the machine. Therefore connections are encrypted with a certificate made for the run,
so that no other server can take the place of one of its ports, and every port accepts only its owner
(`lit_fa.flower.owner`).
"""

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_fa.errors import UserError
from lit_fa.flower import keeper
from lit_fa.flower.certificates import HOST, make
from lit_fa.flower.keeper import REPORT
from lit_fa.flower.server import CHECKPOINT, PROGRESS

log = logging.getLogger(__name__)
LINK = "lit-fa"  # name of the SuperLink in the run's Flower config
POLL_S, START_S = 0.2, 60.0


class Federation:
    """The processes of one run; the output of each goes to its own file.

    Args:
        folder: of Flower's files and the logs, not of the user's files.
        nodes: number of SuperNodes; node i has partition-id i.
    """

    def __init__(self, folder: Path, nodes: int):
        """Create the certificates; no process is started yet."""
        self.folder, self.nodes, self.port = folder, nodes, free_port()
        self.certificates = make(folder / "certificates")
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the process that ends the others, then the SuperLink, then the nodes, which connect to it."""
        self._keep()
        common = ["--host", HOST, *self.certificates.served]
        offline = ["--disable-runtime-dependency-installation"]
        self._start("SuperLink", ["flower-superlink", *common, *offline, "--port", str(self.port)])
        self._wait_for_port()
        for node in range(self.nodes):
            config = f"partition-id={node} num-partitions={self.nodes}"
            link = ["--superlink", f"{HOST}:{self.port}", "--root-certificates", str(self.certificates.authority)]
            own = ["--port", str(free_port()), "--node-config", config]
            self._start(f"SuperNode {node}", ["flower-supernode", *common, *link, *own])

    def submit(self, app: Path) -> None:
        """`flwr run`, which returns once the SuperLink has the app."""
        completed = subprocess.run(
            [_tool("flwr"), "run", str(app), LINK],
            env=self._environment(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if completed.returncode:
            raise UserError(f"flwr run: {' '.join((completed.stdout + completed.stderr).split())[-400:]}")

    def wait(self, allow_failures: bool) -> dict[str, Any]:
        """Show the server's progress until the run ends; returns its report.

        Raises:
            UserError: a process ended before the run.
        """
        shown = 0
        while not self.report.is_file() or not self.report.stat().st_size:
            time.sleep(POLL_S)
            shown = self._show(shown)
            gone = [name for name, process in self.started.items() if process.poll() is not None]
            if gone and not (allow_failures and all("Node" in name for name in gone)):
                raise UserError(
                    f"{gone[0]} is gone; the last checkpoint stays usable: start again with --ckpt_path "
                    f"({self._last_line(gone[0])})"
                )
        self._show(shown)
        return json.loads(self.report.read_text(encoding="utf-8"))

    def end(self) -> None:
        """End every process, including those that Flower has started in separate sessions."""
        try:
            keeper.end(str(self.report))
        finally:
            for process in self.started.values():
                if process.stdin:
                    process.stdin.close()
                process.wait()

    @property
    def checkpoint(self) -> str:
        """The server's newest checkpoint; "" if there is none yet."""
        file = self.folder / CHECKPOINT
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    @property
    def report(self) -> Path:
        """The file in which the server writes how the run ended."""
        return self.folder / "report.json"

    def _keep(self) -> None:
        """Start the process that ends the others after the end of this one (`lit_fa.flower.keeper`)."""
        words = [sys.executable, "-m", "lit_fa.flower.keeper", str(self.report)]
        self.started["the process that ends the others"] = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def _start(self, name: str, words: list[str]) -> None:
        with (self.folder / f"{name}.log").open("w", encoding="utf-8") as output:
            self.started[name] = subprocess.Popen(
                [sys.executable, "-m", "lit_fa.flower.owner", *words],
                env=self._environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _environment(self) -> dict[str, str]:
        """Environment of Flower's processes: a home folder of the run, this environment's tools, no telemetry."""
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        here = {"FLWR_HOME": str(self.folder / "flwr"), REPORT: str(self.report), "PATH": path}
        config = self.folder / "flwr" / "config.toml"
        if not config.is_file():
            config.parent.mkdir(parents=True, exist_ok=True)
            trusted = json.dumps(str(self.certificates.authority))
            link = f'[superlink.{LINK}]\naddress = "{HOST}:{self.port}"\nroot-certificates = {trusted}\n'
            config.write_text(f'[superlink]\ndefault = "{LINK}"\n\n{link}', encoding="utf-8")
        return os.environ | quiet | here

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + START_S
        while self.started["SuperLink"].poll() is None and time.monotonic() < deadline:
            with socket.socket() as trial:
                if trial.connect_ex((HOST, self.port)) == 0:
                    return
            time.sleep(POLL_S)
        raise UserError(f"the SuperLink did not start: {self._last_line('SuperLink')}")

    def _show(self, shown: int) -> int:
        """Print the new complete lines of the server's log; returns the position up to which it was read."""
        progress = self.report.with_name(PROGRESS)
        text = progress.read_text(encoding="utf-8") if progress.is_file() else ""
        end = text.rfind("\n") + 1
        for line in text[shown:end].splitlines():
            log.info(line)
        return max(shown, end)

    def _last_line(self, name: str) -> str:
        file = self.folder / f"{name}.log"
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][-200:] if lines else "it printed nothing"


@contextmanager
def federation(nodes: int) -> Iterator[Federation]:
    """Processes that end with the block."""
    with tempfile.TemporaryDirectory(prefix="lit-fa-flower-", ignore_cleanup_errors=True) as folder:
        started = Federation(Path(folder), nodes)
        try:
            started.start()
            yield started
        finally:
            started.end()


def free_port() -> int:
    """A port of loopback on which no process listens."""
    with socket.socket() as trial:
        trial.bind((HOST, 0))
        return trial.getsockname()[1]


def _tool(name: str) -> str:
    script = Path(sys.executable).parent / name
    return str(script) if script.exists() else name
