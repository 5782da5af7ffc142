"""A run in a process of its own, because its trainer starts ranks (`strategy: ddp`).

Lightning starts a rank with the command line of its own process. The command line of a worker is that of the whole
table, so a run with ranks gets a process of its own: `python -m lit_fa.jobs.own_process RUNNER [CONFIG, RECORD]`. Every
rank ends together with the process that started it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from lit_fa.jobs.runners import load_runner
from lit_fa.operating_system import needs_posix
from lit_fa.stopping import Request, Stopped, exit_code_of_rank, handled, interruptions_as_stopped, stop

_CHECK_S = 1.0  # between two checks for the parent


def run_alone(runner: str, config: dict[str, Any], record: dict[str, Any]) -> None:
    """Call a runner in a new process with the same standard output; the first SIGTERM is passed on to it.

    Raises:
        Stopped: SIGTERM has ended the process; the run can be continued.
        SystemExit: the process has failed and printed why; with its exit code.
        RuntimeError: the process was killed.
    """
    needs_posix("a run whose trainer starts ranks, in a table,")
    command = [sys.executable, "-m", __spec__.name, runner, json.dumps([config, record])]
    paths = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(command, env=os.environ | paths, start_new_session=True)  # imports as here
    request = Request(patient=True)

    def forward(signum: int, frame: object = None) -> None:
        if not request.signum:
            process.send_signal(signum)
        request(signum)

    try:
        with handled(forward, [signal.SIGTERM]):
            code = process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # ranks that are left
        process.wait()
    if code in (128 + signal.SIGTERM, -signal.SIGTERM):
        raise Stopped(signal.SIGTERM, "stopped, as its ranks have")
    if code < 0:
        raise RuntimeError(f"the process of the run was killed by {signal.Signals(-code).name}: a rank failed")
    if code:
        raise SystemExit(code)


def main(words: list[str]) -> int:
    """One rank of a run; returns the exit code, as of the command line."""
    runner, arguments = words
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    try:
        with handled(stop), interruptions_as_stopped():
            load_runner(runner)(*json.loads(arguments))
    except KeyboardInterrupt as stopped:
        print(stopped, flush=True)
        return exit_code_of_rank(stopped)
    except Exception as error:
        if not getattr(error, "user_error", False):
            raise
        print(error, flush=True)
        return 2
    return 0


def _leave_with(parent: int) -> None:
    """Exit when the process that started this one ends, even if a collective call waits."""
    while os.getppid() == parent:
        time.sleep(_CHECK_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
