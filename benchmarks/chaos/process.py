"""One command in its own session, as a new process or forked from this one, which saves the imports."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

TAG = "LIT_FA_CHAOS"  # names the attack in the environment of every process that it starts


class Command:
    """`lit-fa WORDS` in a folder; its output goes to a file beside it.

    Args:
        words: of the command line.
        folder: where it runs.
        log: its output, appended.
        tag: by which the processes that it has started are found.
        fork: a copy of this process, which has imported everything, and workers that are copies of it; False: a new
            process, whose workers are new too.
        environment: variables of the command beside this process's.
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
        self.tag, self.rc, self.log, self.since = tag, None, log, log.stat().st_size if log.is_file() else 0
        environment = {TAG: tag, "OMP_NUM_THREADS": "1", **(environment or {})}
        if fork:
            self.pid = os.fork()
            if not self.pid:
                _become(words, folder, log, environment)
        else:
            with log.open("ab") as output:
                command = [sys.executable, "-m", "lit_fa", *words]
                options = {"cwd": folder, "env": os.environ | environment, "start_new_session": True}
                self.pid = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options).pid

    def ended(self) -> bool:
        """It has ended; `rc` is its exit code, negative the signal that killed it."""
        if self.rc is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.rc = os.waitstatus_to_exitcode(status) if pid else None
        return self.rc is not None

    def wait(self, seconds: float) -> bool:
        """Wait for its end at most so long; whether it has come."""
        until = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.02)
        return self.ended()

    def family(self) -> list[psutil.Process]:
        """The processes that it has started and that live, by their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid in (self.pid, os.getpid()) or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.environ().get(TAG) == self.tag or os.getsid(process.pid) == self.pid:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        """Those that train."""
        return [p for p in self.family() if "resource_tracker" not in " ".join(p.cmdline())]

    def said(self) -> str:
        """What it has printed."""
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
    """The forked copy: the command, and nothing of the harness behind it."""
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
        spawned = multiprocessing.get_context
        multiprocessing.get_context = lambda method=None: spawned("fork" if method == "spawn" else method)
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
