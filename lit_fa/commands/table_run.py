"""`lit-fa table run`: trains the missing runs of tables."""

import argparse
import math
import operator
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from lit_fa.commands.table_jobs import all_missing, with_logs, write_json
from lit_fa.jobs.lock import in_the_way
from lit_fa.jobs.packing import never_packed, packed
from lit_fa.jobs.pool import Job, Outcome, run_jobs
from lit_fa.jobs.progress import duration, reporter, say, short_path
from lit_fa.jobs.runners import load_runner
from lit_fa.named_loggers import HOSTED
from lit_fa.outputs import check_folder
from lit_fa.reports.rows import headers, rows
from lit_fa.results.compare import compare
from lit_fa.results.cost import estimate
from lit_fa.results.records import collect, curves_read
from lit_fa.spec.expand import slug
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import Table
from lit_fa.stopping import exit_code

CHEAP_H = 0.25  # hours; what is said to cost less is not warned of
TABLE_LOGGER = "lit_fa.loggers:log_table"  # as an import path, because tables import no training code
_UPLOAD = "the W&B runs lie in ./wandb where they could not go to the server; upload with: wandb sync --yes"


def run_missing(
    tables: Sequence[Table], arguments: argparse.Namespace, output: Console, runner: str, command: str
) -> int:
    """Train the missing runs; the exit code as of `lit_fa.commands.table`."""
    training = Training(tables, arguments, output, runner, command)
    jobs, broken = all_missing(tables, arguments, output)
    if arguments.dry_run:
        would_run(jobs, output)
        return 2 if broken else 0
    for line in expensive(tables, arguments, jobs):
        say(output, f"warning: {line}")
    return training.train(jobs) or (2 if broken else 0)


class Training:
    """Trains jobs within a time budget, which starts now, and prints how they ended.

    Args:
        tables: of the jobs.
        arguments: of `table run`.
        output: console.
        runner: import path of the function that trains one config.
        command: the command that continues a stopped one.
    """

    def __init__(
        self, tables: Sequence[Table], arguments: argparse.Namespace, output: Console, runner: str, command: str
    ) -> None:
        """See the class."""
        self.tables, self.arguments, self.output, self.runner, self.command = tables, arguments, output, runner, command
        budget = arguments.budget
        self.begun = time.monotonic()
        self.end = math.inf if budget is None else self.begun + 3600 * budget
        self.jobs: list[Job] = []  # of all calls
        self.outcomes: list[Outcome[Job]] = []

    @property
    def is_spent(self) -> bool:
        """Whether the budget is spent, so that no further run starts."""
        return time.monotonic() >= self.end

    def train(self, jobs: Sequence[Job]) -> int:
        """Train the jobs; returns the exit code."""
        arguments, output = self.arguments, self.output
        blocked = [line for job in jobs if (line := in_the_way(Path(job.record["path"])))]
        for line in blocked:
            say(output, f"left out: {line}")
        jobs = [job for job in jobs if not in_the_way(Path(job.record["path"]))]
        for folder in dict.fromkeys(Path(job.record["path"]).parent for job in jobs):
            check_folder(folder, "--out" if arguments.out else "the folder of the records")
        jobs = with_logs(jobs, output)
        self.jobs += jobs
        outcomes: list[Outcome[Job]] = []
        try:
            self._work(jobs, outcomes)
        except KeyboardInterrupt as stopped:
            finished = sum(outcome.done.finished for outcome in outcomes)
            say(output, f"interrupted: {finished} of {len(jobs)} runs finished; go on with: {self.command}")
            return exit_code(stopped)
        finally:
            self.outcomes += outcomes
            if arguments.json:
                write_json(arguments.json, self.jobs, self.outcomes)
        if arguments.logger in HOSTED:
            _log(self.tables, arguments)
        if arguments.logger == "wandb":
            say(output, _UPLOAD)
        if len(outcomes) < len(jobs):
            say(output, f"the budget is spent: {len(jobs) - len(outcomes)} runs not begun; go on with: {self.command}")
        code = _problems(outcomes, output, self.command)
        say(output, f"{_count(outcomes)} in {duration(time.monotonic() - self.begun)}{self._where()}")
        return code or (2 if blocked else 0)

    def _where(self) -> str:
        """Folders of the records, and the command that reports them."""
        folders = dict.fromkeys(str(Path(job.record["path"]).parent) for job in self.jobs)
        options = self.arguments
        words = ["lit-fa", "table", "report", *map(str, options.paths)]
        words += ["--scale", options.scale] if options.scale else []
        words += ["--protocol", options.protocol] if options.protocol != "matched" else []
        words += ["--out", str(options.out)] if options.out else []
        return "".join(f"; {part}" for part in (", ".join(map(short_path, folders)), shlex.join(words)) if part)

    def _work(self, jobs: Sequence[Job], outcomes: list[Outcome[Job]]) -> None:
        """Run the jobs and append their outcomes to the list, which is then known after an interruption."""
        if self.arguments.pack > max(1, len(jobs)):
            say(self.output, f"--pack {self.arguments.pack}: there are only {len(jobs)} runs")
        for line in never_packed(job.config for job in jobs) if self.arguments.pack != 1 else ():
            say(self.output, line)
        workers, config = self.arguments.jobs, operator.attrgetter("config")
        jobs, packing = packed(jobs, self.arguments.pack, workers, config)
        with reporter(len(jobs), self.output, [job.label for job in jobs]) as shown:
            begun = run_jobs(self._begun(jobs), workers=workers, reporter=shown, runner=self.runner, packing=packing)
            with closing(begun) as running:
                for outcome in running:
                    outcomes.append(outcome)
                    shown.ended(outcome.job.label, outcome.done.summary)

    def _begun(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """The jobs that start within the budget."""
        for job in jobs:
            if self.is_spent:
                return
            yield job


def would_run(jobs: Sequence[Job], output: Console) -> None:
    """Print what would be trained."""
    for job in jobs:
        say(output, f"would run {job.label} -> {job.record['path']}")


def _count(outcomes: Sequence[Outcome[Job]]) -> str:
    """How many runs ended in which way."""
    failed = sum(bool(outcome.done.reason) for outcome in outcomes)
    open_ = sum(bool(outcome.done.unfinished) for outcome in outcomes)
    diverged = sum(bool(outcome.done.diverged) for outcome in outcomes)
    others = sum(bool(outcome.done.elsewhere) for outcome in outcomes)
    left = f", {others} left to other processes" if others else ""
    left += f", {open_} not finished" if open_ else ""
    lost = f", {diverged} diverged" if diverged else ""
    return f"{len(outcomes) - failed - open_ - others - diverged} runs finished{lost}, {failed} failed{left}"


def _problems(outcomes: Sequence[Outcome[Job]], output: Console, command: str) -> int:
    """Print why runs failed or did not finish; returns the exit code."""
    failed = [outcome for outcome in outcomes if outcome.done.reason]
    open_ = [outcome for outcome in outcomes if outcome.done.unfinished]
    for outcome in failed:
        say(output, f"failed: {outcome.job.label}: {outcome.done.reason} (log: {outcome.job.log})")
    for outcome in open_:
        say(output, f"not finished: {outcome.job.label}: {outcome.done.unfinished}; go on with: {command}")
    return 2 if any(outcome.done.user_error for outcome in failed) else int(bool(failed or open_))


def expensive(tables: Sequence[Table], arguments: argparse.Namespace, jobs: Sequence[Job]) -> Iterator[str]:
    """A line for each table whose missing runs would take long without the graphics card that they are meant for.

    The scale is `full`, is not declared for processors, and takes more than `CHEAP_H` hours by its records or by its
    declaration, or an unknown time; and no CUDA device is here.
    """
    wanted = {job.record["id"] for job in jobs}
    for table in tables:
        scale = table.scale(arguments.scale)
        declared = scale.cost is not None and scale.cost.device == "cpu" and scale.cost.gpu_hours is None
        if scale.name != "full" or declared:
            continue
        where = output_paths(table, scale.label, tree_of(table), out=arguments.out)
        collected = collect(table, scale, where.results, curves=())
        runs = [run for run in collected.runs if run.id in wanted]
        cost = estimate(collected, runs)
        hours = max((h for h in (cost.cpu_hours, cost.gpu_hours) if h is not None), default=math.inf)
        if runs and hours > CHEAP_H and not _has_cuda():
            costs = f"cost {cost.text}" if cost.source else "are of unknown cost"
            what = f"the {len(runs)} runs of {table.path} at the full scale {costs}"
            yield f"there is no CUDA device; {what}; Ctrl-C stops them, and --scale cpu takes a smaller scale"


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _log(tables: Sequence[Table], arguments: argparse.Namespace) -> None:
    """Log the current state of each table as a run of the chosen logger."""
    for table in tables:
        scale = table.scale(arguments.scale)
        where = output_paths(table, scale.label, tree_of(table), out=arguments.out, allow_dirty=arguments.allow_dirty)
        compared = compare(collect(table, scale, where.target, curves=curves_read(table)))
        name = slug(f"{table.paper.key}-{table.name}-{scale.label}").replace(".", "-")
        load_runner(TABLE_LOGGER)(arguments.logger, table.name, name, headers(table), rows(compared, table))
