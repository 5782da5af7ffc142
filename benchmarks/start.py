"""Wall and CPU time until N workers of `table run` are ready: forked from a server, and spawned, in turns.

    python -m benchmarks.start [--workers 4] [--rounds 3] [--json FILE]

Ready means that the function which trains a run is imported. Every measurement is a process of its own, so each pays
for its server; CPU seconds are those of all processes.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from multiprocessing import forkserver

from rich.console import Console

from lit_fa.jobs.pool import DEFAULT_RUNNER
from lit_fa.jobs.runners import load_runner
from lit_fa.jobs.start import context_of
from lit_fa.outputs import writable_file, write_text

METHODS = ("spawn", "forkserver")


def start(method: str, workers: int) -> float:
    """Wall seconds until so many workers have imported the runner."""
    context = context_of(DEFAULT_RUNNER) if method == "forkserver" else multiprocessing.get_context(method)
    begun = time.monotonic()
    processes = [context.Process(target=load_runner, args=(DEFAULT_RUNNER,)) for _ in range(workers)]  # type: ignore[attr-defined]  # of every context
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a worker has failed")
    seconds = time.monotonic() - begun
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # only then is its CPU time known
    return seconds


def measured(method: str, workers: int) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of all processes, of a start in a new process."""
    command = [sys.executable, "-m", "benchmarks.start", "--workers", str(workers), "--only", method]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    wall = float(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return wall, usage.ru_utime + usage.ru_stime


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.only:
        print(start(options.only, options.workers))
        return
    if options.json:
        writable_file(options.json, "--json")
    turns = [{method: measured(method, options.workers) for method in METHODS} for _ in range(options.rounds)]
    found: dict[str, object] = {"workers": options.workers}
    for number, kind in enumerate(("wall", "cpu")):
        seconds = {method: statistics.median(turn[method][number] for turn in turns) for method in METHODS}
        ratio = statistics.median(turn["forkserver"][number] / turn["spawn"][number] for turn in turns)
        found[kind] = seconds | {"ratio": ratio}
        line = ", ".join(f"{method} {value:.1f} s" for method, value in seconds.items())
        Console().print(f"{options.workers} workers, {kind}: {line}; {ratio:.2f} times spawn's", highlight=False)
    if options.json:
        write_text(options.json, json.dumps(found, indent=1) + "\n", "--json")


if __name__ == "__main__":
    main()
