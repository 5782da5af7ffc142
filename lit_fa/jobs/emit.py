"""Command lines for many machines: a Slurm job array, a W&B sweep file, or tasks of a Ray cluster.

Every task is one command of `lit-fa`, started in this folder, which the machines share. So the runs of a table are
trained on any machine, and its report finds them in one results folder. If two tasks need the same run, one trains it.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_fa.config.arguments import file_path, nonempty
from lit_fa.errors import UserError
from lit_fa.outputs import writable_file, write_text

Line = list[str]
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


def add_emit_options(parser: argparse.ArgumentParser) -> None:
    """The options of `emit`, the same for tables and sweeps."""
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--slurm", action="store_true", help="a job array for sbatch, one task a line")
    target.add_argument("--wandb", action="store_true", help="a W&B sweep file for wandb sweep, wandb agent")
    target.add_argument("--ray", action="store_true", help="run on a Ray cluster now, and wait")
    parser.add_argument("--to", type=file_path, metavar="FILE", help="write there; default: the terminal")
    parser.add_argument(
        "--sbatch", action="append", type=nonempty, default=[], metavar="time=1:00:00", help="options for sbatch"
    )
    parser.add_argument("--address", help="of the Ray cluster (default auto); local: one of this machine's own")


def check_emit_options(options: argparse.Namespace) -> None:
    """Refuse an option of another target, a file that cannot be written and an option that is not a single line.

    Raises:
        UserError: such an option was given.
    """
    target = next(name for name in ("slurm", "wandb", "ray") if getattr(options, name))
    for name, targets in {"sbatch": ("slurm",), "to": ("slurm", "wandb"), "address": ("ray",)}.items():
        if getattr(options, name) and target not in targets:
            raise UserError(
                f"--{name} has no meaning with --{target}: leave it out, or emit for {' or '.join(targets)}"
            )
    if options.to:
        writable_file(options.to, "--to")
    for option in options.sbatch:
        if not option.strip() or not option.isprintable():
            raise UserError(f"--sbatch {option!a}: write one option of sbatch, such as time=1:00:00")


def emit(
    lines: Sequence[Line], options: argparse.Namespace, name: str, *, sweep_file: str, gpus: int = 0, nodes: int = 1
) -> int:
    """Writes the array or the sweep file, or runs the lines on Ray; returns the exit code.

    Args:
        lines: words of each task, `lit-fa` first.
        options: of `add_emit_options`.
        name: of the job.
        sweep_file: what `--wandb` writes.
        gpus: that a task of `--slurm` asks for.
        nodes: of one run; `--slurm` refuses more than one.

    Raises:
        UserError: a task of an array would need several nodes.
    """
    if options.slurm and nodes > 1:
        raise UserError(
            f"--slurm: a run has num_nodes: {nodes}, and every task of the array is one process: start such a run by "
            "srun lit-fa fit (docs/scale.md)"
        )
    if options.ray:
        return on_ray(lines, options.address or "auto")
    text = sweep_file if options.wandb else job_array(lines, name, options.sbatch, gpus)
    if options.to is None:
        print(text, end="")
        return 0
    write_text(options.to, text, "--to")
    begin = "wandb sweep" if options.wandb else "sbatch"
    print(f"{options.to}: {len(lines)} {'task' if len(lines) == 1 else 'tasks'}; start with: {begin} {options.to}")
    return 0


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
    tasks = [f"  {shlex.quote(shlex.join(_here(line)))}" for line in lines]
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


def sweep_of(line: Line, option: str, values: Sequence[str]) -> str:
    """A W&B grid over one option of a command of `lit-fa`; W&B's agents distribute its values."""
    command = ["${env}", "${interpreter}", "-m", "lit_fa", *line[1:], "${args}"]
    sweep = {"program": "lit_fa", "project": "lit-fa", "method": "grid", "command": command}
    return yaml.safe_dump(sweep | {"parameters": {option: {"values": list(values)}}}, sort_keys=False, width=1000)


def on_ray(lines: Sequence[Line], address: str) -> int:
    """Runs every line as a task with one CPU and prints how each ended; returns the largest exit code.

    Raises:
        UserError: there is no Ray, or no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("emit --ray needs Ray: pip install 'lit-fa[ray]'") from error
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError as error:
        raise UserError(f"no Ray cluster at {address}: start one (ray start --head), or give --address") from error
    task = ray.remote(num_cpus=1, max_retries=1)(_call)
    running = {task.remote(_here(line), str(Path.cwd())): line for line in lines}
    codes = []
    while running:
        (ended,), _ = ray.wait([*running])
        code, last_line = ray.get(ended)
        codes.append(code)
        print(f"[{len(codes)}/{len(lines)}] {shlex.join(running.pop(ended))}: exit {code}, {last_line}", flush=True)
    ray.shutdown()
    return max(codes, default=0)


def _call(words: Line, folder: str) -> tuple[int, str]:
    """Exit code and last line of output of a command."""
    done = subprocess.run(
        words, cwd=folder, encoding="utf-8", errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, (done.stdout.strip().splitlines() or [""])[-1]


def _here(line: Line) -> Line:
    """The line with this interpreter, because the shell of a task has no virtual environment."""
    return [sys.executable, "-m", "lit_fa", *line[1:]]
