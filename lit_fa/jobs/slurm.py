"""A Slurm job array: one command of `lit-fa` a task, which Slurm signals before its time limit and queues again."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_fa.errors import UserError
from lit_fa.jobs.lines import Line, with_interpreter

BEFORE_LIMIT_S = 120  # in which a run finishes its step and writes its checkpoint
# USR1 comes from Slurm before the time limit, TERM when a task is cancelled or preempted; a wait that a signal ends is
# repeated, and exit code 143 says that the run stopped because it was asked to
_TASK = """\
limit= signalled=
trap 'limit=1 signalled=1; kill -TERM "$task" 2>/dev/null' USR1
trap 'signalled=1; kill -TERM "$task" 2>/dev/null' TERM
eval "${lines[$SLURM_ARRAY_TASK_ID]} &"
task=$!
until signalled=; wait "$task"; code=$?; [ -z "$signalled" ]; do :; done
if [ -n "$limit" ] && [ "$code" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code"""
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")  # in a directive of Slurm, in which a space starts another option
_TIME = re.compile(r"time=(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_EARLIER_S = 60  # by which Slurm may signal earlier than it is told


def check_time_limit(options: Sequence[str]) -> None:
    """Refuse a time limit so short that every task would be signalled, and queued again, before it has trained.

    Raises:
        UserError: there is such a limit.

    >>> check_time_limit(["time=1-0", "signal=B:USR1@600"])
    """
    limits = [limit for option in options if (limit := _seconds(option))]
    signals = [int(option.rpartition("@")[2]) for option in options if re.fullmatch(r"signal=.*@\d+", option)]
    before = signals[-1] if signals else BEFORE_LIMIT_S
    if limits and limits[-1] <= before + _EARLIER_S:
        raise UserError(
            f"--sbatch time: Slurm signals a task {before} s before its limit, and up to {_EARLIER_S} s before that, "
            f"so a task of {limits[-1]} s would not train: give it more time, or signal=B:USR1@30"
        )


def _seconds(option: str) -> int:
    """Of a time limit as sbatch reads it; 0 if the option is another, or no limit.

    >>> [_seconds(f"time={limit}") for limit in ("2", "2:30", "1:00:00", "1-2", "0", "UNLIMITED")]
    [120, 150, 3600, 93600, 0, 0]
    """
    match = _TIME.fullmatch(option)
    if not match:
        return 0
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is None and len(numbers) < 3:  # minutes, or minutes and seconds
        numbers = [0, *numbers]
    hours, minutes, seconds = [*numbers, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def job_array(lines: Sequence[Line], name: str, options: Sequence[str] = (), gpus: int = 0) -> str:
    """A script for sbatch; task k of the array runs line k, also without Slurm: SLURM_ARRAY_TASK_ID=k bash FILE.

    A task that Slurm preempts, or whose node fails, is queued again, and its run continues from its checkpoint. So is
    a task that comes near its time limit: Slurm signals the shell, the run stops with a checkpoint, and the shell asks
    for another turn. A task asks for `gpus`, unless the options name GPUs themselves.
    """
    name, last = _UNSAFE.sub("-", name), len(lines) - 1
    head = [f"job-name=lit-fa-{name}", f"array=0-{last}", "cpus-per-task=1", "output=slurm-%A_%a.out"]
    head += ["requeue", "open-mode=append", f"signal=B:USR1@{BEFORE_LIMIT_S}"]
    head += [f"gpus-per-node={gpus}"] if gpus and not any(re.match(r"-*(gpus|gres|G\b)", o) for o in options) else []
    directives = [f"#SBATCH --{option}" for option in (*head, *options)]
    tasks = [f"  {shlex.quote(shlex.join(with_interpreter(line)))}" for line in lines]
    end = [f"cd {shlex.quote(str(Path.cwd()))}", _TASK]
    return "\n".join(["#!/bin/bash", *directives, "lines=(", *tasks, ")", *end, ""])


def needs_of(configs: Sequence[dict[str, Any]], scale: str) -> tuple[int, int]:
    """The GPUs of a task, and the nodes of a run: the most that any of the configs asks for.

    `accelerator: auto` means GPUs, except at the scale `cpu`.

    >>> needs_of([{"trainer": {"accelerator": "auto", "devices": 2}}], "full"), needs_of([{}], "cpu")
    ((2, 1), (0, 1))
    """
    gpus = nodes = 0
    for config in configs:
        trainer = config.get("trainer") or {}
        accelerator, devices = trainer.get("accelerator") or "auto", trainer.get("devices")
        on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and scale != "cpu")
        count = int(str(devices)) if str(devices).isdecimal() else 1
        gpus, nodes = max(gpus, count if on_gpu else 0), max(nodes, int(trainer.get("num_nodes") or 1))
    return gpus, max(nodes, 1)
