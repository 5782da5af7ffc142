"""One command in its own session, as a new process or forked from this one, which saves the imports."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

TAG = "LIT_FA_CHAOS"  # names the attack in the environment of every process that it starts


class Command:
    """`lit-fa WORDS` in a folder; its output goes to a file beside it.

    Args:
        words: of the command line.
        folder: working directory.
        log: file to which its output is appended.
        tag: identifies the processes that the command starts.
        fork: fork this process, which has imported everything, and let it fork its workers; False: start a new process
            with new workers.
        environment: further environment variables.
    """

    def __init__(
        self,
        words: list[str],
        folder: Path,
        log: Path,
        tag: str,
        *,
        fork: bool,
        environment: Mapping[str, str] | None = None,
    ):
        """Start it."""
        self.tag, self.log, self.since = tag, log, log.stat().st_size if log.is_file() else 0
        self.rc: int | None = None
        environment = {TAG: tag, "OMP_NUM_THREADS": "1", **(environment or {})}
        if fork:
            self.pid = os.fork()
            if not self.pid:
                _become(words, folder, log, environment)
        else:
            with log.open("ab") as output:
                self.pid = subprocess.Popen(
                    [sys.executable, "-m", "lit_fa", *words],
                    cwd=folder,
                    env=os.environ | environment,
                    start_new_session=True,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                ).pid

    def ended(self) -> bool:
        """Whether it has ended; `rc` is then the exit code, or minus the number of the signal that killed it."""
        if self.rc is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.rc = os.waitstatus_to_exitcode(status) if pid else None
        return self.rc is not None

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for its end; returns whether it has ended."""
        until = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.02)
        return self.ended()

    def family(self) -> list[psutil.Process]:
        """The running processes that it has started, identified by their environment."""
        members = []
        for process in psutil.process_iter():
            try:
                if process.pid in (self.pid, os.getpid()) or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get(TAG) == self.tag or os.getsid(process.pid) == self.pid:
                    members.append(process)
            except (psutil.Error, OSError):
                continue
        return members

    def workers(self) -> list[psutil.Process]:
        """The processes that train."""
        return [p for p in self.family() if "resource_tracker" not in " ".join(p.cmdline())]

    def output(self) -> str:
        """Its output."""
        return self.log.read_bytes()[self.since :].decode(errors="replace") if self.log.is_file() else ""

    def end(self) -> None:
        """End the processes of the command that still run."""
        for process in self.family():
            try:
                process.kill()
            except psutil.Error:
                continue
        if not self.ended():
            os.kill(self.pid, 9)
            self.wait(10)


def _become(words: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    """Run the command in the forked process, which then exits."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.update(environment)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1), os.dup2(output, 2)
        sys.stdout, sys.stderr = (  # open to the end
            open(d, "w", buffering=1, closefd=False, encoding="utf-8")  # noqa: SIM115
            for d in (1, 2)
        )
        new_context: Any = multiprocessing.get_context
        multiprocessing.get_context = lambda method=None: new_context("fork" if method == "spawn" else method)
        from lit_fa.__main__ import main

        code = main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
