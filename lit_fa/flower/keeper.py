"""Ends a federation's processes when the one that started them is gone, whatever ended it.

`lit-fa flower` holds the writing end of this process's standard input: the system closes it even on SIGKILL. Every
process of a federation, also those that Flower starts in sessions of their own, carries the path of the run's report
in its environment, by which it is found.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

REPORT = "LIT_FA_FLOWER_REPORT"  # names the file that tells the command that started a run how it ended


def family(report: str) -> list[psutil.Process]:
    """The processes of the federation with this report, the calling one left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(REPORT) == report:
                found.append(process)
        except (psutil.Error, OSError):  # of another user, or gone
            continue
    return found


def end(report: str, grace_s: float = 5.0) -> None:
    """End them: SIGTERM first, SIGKILL to those that are left; again, for one may have started another meanwhile."""
    for process in (asked := family(report)):
        _quietly(process.terminate)
    psutil.wait_procs(asked, timeout=grace_s)
    until = time.monotonic() + grace_s
    while (left := family(report)) and time.monotonic() < until:
        for process in left:
            _quietly(process.kill)
        psutil.wait_procs(left, timeout=1.0)


def main(report: str) -> None:
    """Wait for the end of standard input, then end the federation and remove its folder."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)  # the parent ends in its own way, and then this one does
    sys.stdin.buffer.read()
    end(report, grace_s=1.0)
    shutil.rmtree(Path(report).parent, ignore_errors=True)


def _quietly(action) -> None:
    with suppress(psutil.Error):
        action()


if __name__ == "__main__":
    main(sys.argv[1])
