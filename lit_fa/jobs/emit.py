"""Command lines for many machines: a Slurm job array, a W&B sweep file, or tasks of a Ray cluster.

Every task is one command of `lit-fa`, started in this folder, which the machines share. So the runs of a table are
trained on any machine, and its report finds them in one results folder. If two tasks need the same run, one trains it.
"""

import argparse
from collections.abc import Sequence

import yaml

from lit_fa.config.arguments import file_path, nonempty
from lit_fa.errors import UserError
from lit_fa.jobs.lines import Line
from lit_fa.jobs.on_ray import on_ray
from lit_fa.jobs.slurm import check_time_limit, job_array
from lit_fa.outputs import writable_file, write_text


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
    check_time_limit(options.sbatch)


def emit(
    lines: Sequence[Line], options: argparse.Namespace, name: str, *, sweep_file: str, gpus: int = 0, nodes: int = 1
) -> int:
    """Writes the array or the sweep file, or runs the lines on Ray; returns the exit code.

    Args:
        lines: words of each task, `lit-fa` first.
        options: of `add_emit_options`.
        name: of the job.
        sweep_file: what `--wandb` writes.
        gpus: that a task asks for.
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
        return on_ray(lines, options.address or "auto", gpus)
    text = sweep_file if options.wandb else job_array(lines, name, options.sbatch, gpus)
    if options.to is None:
        print(text, end="")
        return 0
    write_text(options.to, text, "--to")
    begin = "wandb sweep" if options.wandb else "sbatch"
    print(f"{options.to}: {len(lines)} {'task' if len(lines) == 1 else 'tasks'}; start with: {begin} {options.to}")
    return 0


def sweep_of(line: Line, option: str, values: Sequence[str]) -> str:
    """A W&B grid over one option of a command of `lit-fa`; W&B's agents distribute its values."""
    command = ["${env}", "${interpreter}", "-m", "lit_fa", *line[1:], "${args}"]
    sweep = {"program": "lit_fa", "project": "lit-fa", "method": "grid", "command": command}
    return yaml.safe_dump(sweep | {"parameters": {option: {"values": list(values)}}}, sort_keys=False, width=1000)
