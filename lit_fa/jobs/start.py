"""How workers start: forked from a server that has imported the runner once, or spawned.

Importing torch and Lightning takes seconds for each worker. The server (Python's `forkserver`) is a new process that
imports the runner's module and does nothing else: it runs no code of a run, starts no thread and initialises no CUDA
device, so that a process forked from it is as good as a new one. macOS spawns, because its frameworks may not be used
after a fork, and Windows has no fork.
"""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

SERVER = "lit_fa.jobs.server"  # imported by the server, before the runner's module
KNOWN = "lit_fa.jobs.known"  # after it
OURS = "lit_fa."


def can_fork() -> bool:
    """Whether workers are forked from a server on this operating system."""
    return sys.platform != "darwin" and "forkserver" in multiprocessing.get_all_start_methods()


def context_of(runner: str) -> BaseContext:
    """The context in which workers for a runner start.

    Args:
        runner: import path `package.module:function`. A module that is not ours is imported by each worker, because
            importing it may do anything.
    """
    if not can_fork():
        return multiprocessing.get_context("spawn")
    context, module = multiprocessing.get_context("forkserver"), runner.partition(":")[0]
    context.set_forkserver_preload([SERVER, *([module, KNOWN] if module.startswith(OURS) else [])])
    return context


def environment() -> dict[str, str]:
    """This process's environment variables, which a worker takes over; the server has those of its own start."""
    return dict(os.environ)


def end_server() -> None:
    """End the server, unless a process that it has forked still runs: it holds the memory of what it has imported."""
    if can_fork() and not multiprocessing.active_children():
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # otherwise it lives as long as this process
