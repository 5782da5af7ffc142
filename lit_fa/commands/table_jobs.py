"""The missing runs of tables, as jobs, and the lines that report them."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from lit_fa.errors import UserError
from lit_fa.jobs.lock import clear
from lit_fa.jobs.pool import J, Job, Outcome
from lit_fa.jobs.progress import say
from lit_fa.jobs.worker import Done, version_of
from lit_fa.outputs import usable_folder, write_text
from lit_fa.provenance import Code
from lit_fa.results.cost import estimate
from lit_fa.results.preliminary import preliminary
from lit_fa.results.records import Record, collect, further_runs, read_record
from lit_fa.results.stale import of_other_code, stale_line
from lit_fa.shipped import check_not_installed, is_installed
from lit_fa.spec.command import read_only
from lit_fa.spec.expand import Run, expand
from lit_fa.spec.output_paths import OutputPaths, check_inside, dirty_records, output_paths, tree_of
from lit_fa.spec.table import Scale, Table
from lit_fa.spec.validation import choice


def all_missing(tables: Sequence[Table], arguments: argparse.Namespace, output: Console) -> tuple[list[Job], int]:
    """The jobs of all tables, and the number of tables that are left out because of an error.

    Raises:
        UserError: the error of the only table.
    """
    jobs, broken = [], 0
    for table in tables:
        try:
            jobs += missing(table, arguments, output)
        except UserError as error:
            if len(tables) == 1:
                raise
            broken += 1
            say(output, f"left out: {error}")
    return jobs, broken


def missing(table: Table, arguments: argparse.Namespace, output: Console) -> list[Job]:
    """The missing runs of one table, as jobs; prints how many are done, and which files do not count."""
    scale, tree = table.scale(arguments.scale), tree_of(table)
    where = output_paths(table, scale.label, tree, out=arguments.out, allow_dirty=arguments.allow_dirty)
    runs = _chosen(table, scale, arguments, where.results)
    jobs, problems = missing_jobs(table, runs, where, tree, arguments.logger, stale=arguments.stale)
    if not getattr(arguments, "dry_run", True):  # `emit` has no such option and removes nothing
        to_run = {job.record["id"] for job in jobs}
        for run in runs:
            if run.id not in to_run:
                clear(where.target / run.file_name)
    for problem in problems:
        say(output, f"skipped {problem}")
    say(output, f"{table.path} ({scale.label}): {len(runs) - len(jobs)} of {len(runs)} runs done, {len(jobs)} to run")
    collected = collect(table, scale, where.results, curves=())
    if jobs and getattr(arguments, "dry_run", False):
        ids = {job.record["id"] for job in jobs}
        say(output, f"cost of these runs: {estimate(collected, [run for run in runs if run.id in ids]).text}")
    if not arguments.stale and (line := stale_line(collected)):
        say(output, f"{line}; --stale runs them again")
    if jobs and not getattr(arguments, "dry_run", False):
        check_not_installed(where.target)
    if arguments.out is None and not is_installed(where.target):
        check_inside(where.target, table, where.scratch)
    if where.diverted and jobs:
        note = f"{len(jobs)} runs go to {where.target} and will not be counted"
        say(output, f"the code has uncommitted changes: {note}; commit first or give --allow-dirty")
    return jobs


def _chosen(table: Table, scale: Scale, arguments: argparse.Namespace, results: Path) -> list[Run]:
    """The runs that the options select, including runs of further seeds that have records in `results`."""
    further = further_runs(table, scale, results)
    known = (*scale.seeds, *dict.fromkeys(run.seed for run in further))
    runs = expand(table, replace(scale, seeds=known), only=read_only(arguments.only), seeds=_seeds(arguments.seeds))
    recorded = {run.id for run in further}
    runs = [run for run in runs if run.seed in scale.seeds or run.id in recorded]
    if not arguments.id:
        return runs
    by_id = {run.id: run for run in runs}
    return [by_id[choice(name, by_id, f"{table.path}: --id")] for name in dict.fromkeys(arguments.id)]


def missing_jobs(
    table: Table,
    runs: Sequence[Run],
    where: OutputPaths,
    tree: Code,
    logger: str | None = None,
    *,
    stale: bool = False,
) -> tuple[list[Job], list[str]]:
    """The runs without a complete record, as jobs, and a line for every file that does not count.

    `logger` is the name of a logger that replaces those of the configs; it changes no number and no id. With `stale`,
    runs whose records are from other code are included.
    """
    jobs, problems = [], []
    earlier = _dirty(table, runs, where)
    for run in runs:
        folders = dict.fromkeys((where.results, where.target))
        read = [read_record(folder / run.file_name, run, curves=()) for folder in folders]
        problems += [problem for _, problem in read if problem]
        records = [record for record, _ in read if record]
        if all(stale and of_other_code(record, run) for record in records):
            head = _head(table, run, tree, where.target / run.file_name)
            head |= {"replaces": version_of(records[0].data)} if records else {}
            head |= {"preliminary": preliminary([*records, *earlier.get(run.file_name, [])])}
            log = where.scratch / "logs" / f"{run.id}.log"
            jobs.append(Job(f"{table.name}: {run.label}", _with_logger(run.config, logger), head, log))
    return jobs, problems


def _dirty(table: Table, runs: Sequence[Run], where: OutputPaths) -> dict[str, list[Record]]:
    """The records of these runs by uncommitted code, by file name."""
    known, by_file = {run.file_name: run for run in runs}, dict[str, list[Record]]()
    label = where.results.name
    for path in dirty_records(table, label, where.scratch):
        if path.name in known and path.parent not in (where.results, where.target):
            record, _ = read_record(path, known[path.name], curves=())
            by_file.setdefault(path.name, []).extend([record] if record else [])
    return by_file


def with_logs(jobs: Sequence[J], output: Console) -> list[J]:
    """The jobs with log files beside the table, or in a temporary folder if that is read-only."""
    folders = {folder: usable_folder(folder) for folder in dict.fromkeys(job.log.parent for job in jobs)}
    for folder, used in folders.items():
        if used != folder:
            say(output, f"{folder} takes no files; the logs of the runs go to {used}")
    return [replace(job, log=folders[job.log.parent] / job.log.name) for job in jobs]


def write_json(path: Path, jobs: Sequence[Job], outcomes: Sequence[Outcome[Job]]) -> None:
    """Write how each job ended, with the head of its record."""
    ended = {outcome.job.record["path"]: outcome.done for outcome in outcomes}
    entries = []
    for job in jobs:
        done = ended.get(job.record["path"])
        reason = done.reason or done.unfinished or done.diverged if done else ""
        entries.append({**job.record, "status": _status(done), "reason": reason, "log": str(job.log)})
    write_text(path, json.dumps(entries, indent=1) + "\n", "--json")


def _status(done: Done | None) -> str:
    if done is None or done.elsewhere:
        return "not run"
    if done.unfinished:
        return "not finished"
    return "failed" if done.reason else "diverged" if done.diverged else "finished"


def _seeds(option: str | None) -> list[int] | None:
    if option is None:
        return None
    try:
        return [int(seed) for seed in option.split(",")]
    except ValueError:
        raise UserError(f"--seeds {option!r}: write whole numbers separated by commas, such as 0,1") from None


def _with_logger(config: dict[str, Any], logger: str | None) -> dict[str, Any]:
    return config | {"trainer": (config.get("trainer") or {}) | {"logger": logger}} if logger else config


def _head(table: Table, run: Run, tree: Code, path: Path) -> dict[str, Any]:
    return {
        "id": run.id,
        "paper": table.paper.key,
        "table": table.name,
        "row": run.cell.row,
        "column": run.cell.column,
        "scale": run.scale,
        "seed": run.seed,
        "commit": tree.commit,
        "dirty": tree.dirty,
        "path": str(path.parent.resolve() / path.name),
        **({} if run.protocol == "matched" else {"protocol": run.protocol}),
    }
