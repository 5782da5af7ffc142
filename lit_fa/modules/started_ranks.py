"""Ranks that Lightning starts from the process of rank 0: if one of them ends, so do the others, with one line.

Usually a rank that waits for a lost one gets an error of the process group (`modules.distributed.lost_rank`). The
threads here end ranks that do not wait for it, or wait before the ranks have met.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import lightning as L

from lit_fa.lightning_privates import on_ranks_started, ranks_by_command_line, stop_observing_ranks
from lit_fa.stopping import SIGNALS

STARTED_BY = "LIT_FA_STARTED_BY"  # in the environment of a started rank: the process of rank 0
CHECK_S = 1.0  # between two checks
GRACE_S = 4.0  # in which a rank may end with an error of its own


class Process(Protocol):
    """Of one started rank."""

    def poll(self) -> int | None:
        """The exit code, or None."""

    def kill(self) -> None:
        """End it."""


def observe(trainer: L.Trainer) -> None:
    """Called on every rank before training: end this process, with one line, if a rank has ended that is needed."""
    parent = os.environ.get(STARTED_BY)
    if parent == str(os.getppid()) and int(os.environ.get("LOCAL_RANK", 0)):
        _start(leave_with, os.getppid())
    elif ranks_by_command_line(trainer) > 1:
        os.environ[STARTED_BY] = str(os.getpid())
        take_over = partial(stop_observing_ranks, trainer)
        on_ranks_started(trainer, lambda processes: _start(leave_after, processes, take_over))


def leave_after(processes: list[Process], take_over: Callable[[], None]) -> None:
    """On rank 0: wait until a started rank fails, then end this process and all ranks.

    Args:
        processes: of the ranks; emptied if nothing is to be observed any more.
        take_over: stops Lightning's own thread, which would kill this process.
    """
    while processes:
        codes = [process.poll() for process in processes]
        if failed := [(rank, code) for rank, code in enumerate(codes, start=1) if code]:
            ranks = [*processes]
            take_over()
            time.sleep(GRACE_S)
            for process in ranks:
                process.kill()
            _leave(f"rank {failed[0][0]} has ended with exit code {failed[0][1]}", failed[0][1])
        if all(code == 0 for code in codes):
            return
        time.sleep(CHECK_S)


def leave_with(parent: int) -> None:
    """On a started rank: wait until rank 0 has ended, then end this process."""
    while os.getppid() == parent:
        time.sleep(CHECK_S)
    time.sleep(GRACE_S)
    _leave("rank 0 has ended", 2)


def _leave(what: str, code: int) -> None:
    line = f"lit-fa: another rank of this run is gone: {what}; the last checkpoint stays usable: start the run again "
    print(line + "with --ckpt_path", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code if code - 128 in SIGNALS else 2)


def _start(function: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=function, args=arguments, daemon=True, name="lit-fa-ranks").start()
