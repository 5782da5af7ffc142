"""A process that ends all processes of a federated run when `lit-fa flower` ends in any way.

`lit-fa flower` has the writing end of this process's standard input, which the system closes even after SIGKILL. Every
process of the run, including those that Flower starts in separate sessions, has the path of the run's report in its
environment, and is found by it.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

REPORT = "LIT_FA_FLOWER_REPORT"  # path of the file in which the server writes how the run ended


def family(report: str) -> list[psutil.Process]:
    """The processes of the run with this report, except the calling one."""
    members = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(REPORT) == report:
                members.append(process)
        except (psutil.Error, OSError):  # of another user, or ended
            continue
    return members


def end(report: str, grace_s: float = 5.0) -> None:
    """End these processes by SIGTERM, then by SIGKILL, repeatedly, because one may have started another meanwhile."""
    for process in (asked := family(report)):
        _quietly(process.terminate)
    psutil.wait_procs(asked, timeout=grace_s)
    until = time.monotonic() + grace_s
    while (left := family(report)) and time.monotonic() < until:
        for process in left:
            _quietly(process.kill)
        psutil.wait_procs(left, timeout=1.0)


def main(report: str) -> None:
    """Wait for the end of standard input, then end the processes of the run and delete its folder."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)  # this process ends only after its parent
    sys.stdin.buffer.read()
    end(report, grace_s=1.0)
    shutil.rmtree(Path(report).parent, ignore_errors=True)


def _quietly(action: Callable[[], object]) -> None:
    with suppress(psutil.Error):
        action()


if __name__ == "__main__":
    main(sys.argv[1])
