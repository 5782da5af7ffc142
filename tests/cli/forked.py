"""`lit-fa` in processes that may be killed; they come from a fork server, which has imported the command line once."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch


class Kill(L.Callback):
    """Ends the process, as the system does, once there is no file `spared` in its folder."""

    def __init__(self, at: int):
        self.at = at

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.at and not Path("spared").exists():
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Ended:
    """How a process ended: its exit code, and what it printed."""

    code: int
    said: str


def lit_fa(folder: Path, *words: str, environment: dict[str, str] | None = None) -> Ended:
    """`lit-fa WORDS` in a folder."""
    return _ended(folder, _in, words, environment or {})


def _in(folder: Path, words: tuple[str, ...], environment: dict[str, str]) -> None:
    from lit_fa.__main__ import main

    os.environ |= environment
    _here(folder)
    sys.argv = ["lit-fa", *words]
    sys.exit(main([*words]))


def _record_in(folder: Path, config: dict, record: dict) -> None:
    from lit_fa import experiment

    _here(folder)
    experiment.run(config, record)


def _here(folder: Path) -> None:
    os.chdir(folder)
    with open("printed", "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)


def run_recorded(folder: Path, config: dict, record: dict) -> Ended:
    """`lit_fa.run(config, record)` in a folder, as a worker of a table does."""
    return _ended(folder, _record_in, config, record)


def _ended(folder: Path, target: Callable[..., None], *arguments: object) -> Ended:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.cli.forked", "lit_fa.commands.fit"])
    process = context.Process(target=target, args=(folder, *arguments))
    process.start()
    process.join()
    return Ended(process.exitcode or 0, (folder / "printed").read_text())
