"""`lit-fa table verify`: repeats random or cheap records with the present code and compares all numbers."""

import argparse
import json
import random
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from lit_fa.bounded_reading import read_json, reason
from lit_fa.commands.table_jobs import with_logs
from lit_fa.errors import UserError
from lit_fa.escaping import plain
from lit_fa.jobs.pool import Job, Outcome, run_jobs
from lit_fa.jobs.progress import reporter, say
from lit_fa.jobs.worker import version_of
from lit_fa.outputs import usable_folder, write_text
from lit_fa.provenance import Code
from lit_fa.reports.verification import console, entry, markdown
from lit_fa.results.derived import with_derived
from lit_fa.results.differences import compare_runs, spreads_of
from lit_fa.results.record_schema import restored
from lit_fa.results.records import Collected, Record, collect, misnamed, unfinished
from lit_fa.results.run_config import config_of
from lit_fa.results.stale import changed
from lit_fa.results.verification import Checked, add_verified, checked, failed, file_of, read_verified
from lit_fa.results.verification import Outcome as Verdict
from lit_fa.shipped import is_installed
from lit_fa.spec.command import options_with_records, run_command
from lit_fa.spec.output_paths import OutputPaths, output_paths, tree_of
from lit_fa.spec.overrides import run_id
from lit_fa.spec.table import Scale, Table
from lit_fa.stopping import exit_code


@dataclass(frozen=True)
class Drawn(Job):
    """A drawn record and the job of its rerun."""

    table: Table
    collected: Collected
    recorded: Record
    origin: str

    @property
    def rerun(self) -> Record | None:
        """The record of the rerun, if it has ended and no code that the run reaches has changed since."""
        record = read_alone(Path(self.record["path"]))
        return record if isinstance(record, Record) and not changed(record.data, self.config) else None


def verify(tables: Sequence[Table], arguments: argparse.Namespace, output: Console, runner: str, command: str) -> int:
    """Draw, run again, compare, report; the exit code: 0 all agree, 1 one does not, 2 some could not be run."""
    for table in tables:
        read_verified(file_of(table, arguments.out))  # refused before anything runs, if it cannot be read
    draws = [draw for table in tables for draw in _draw(table, arguments)]
    drawn = [draw for draw in draws if isinstance(draw, Drawn)]
    left_out = [draw for draw in draws if isinstance(draw, str)]
    for text in left_out:
        say(output, f"left out: {text}")
    new = [job for job in drawn if job.rerun is None]
    say(output, f"{len(drawn)} records drawn, {len(drawn) - len(new)} already run again by this code")
    outcomes: list[Outcome[Drawn]] = []
    try:
        _run(with_logs(new, output), outcomes, arguments.jobs, runner, output)
    except KeyboardInterrupt as stopped:
        say(output, f"interrupted: {len(outcomes)} of {len(new)} reruns ended; go on with: {command}")
        return exit_code(stopped)
    results = _results(drawn, outcomes, output)
    if results:
        output.print(console([result for _, result in results]))
    report = [entry(job.table.path, job.origin, result) for job, result in results]
    if arguments.json:
        write_text(arguments.json, json.dumps(report, indent=1, allow_nan=False) + "\n", "--json")
    if arguments.markdown:
        text = markdown(report, left_out, command, datetime.now(UTC).date().isoformat())
        write_text(arguments.markdown, text, "--write")
    agree = sum(result.verified.outcome.agrees for _, result in results)
    say(output, f"{agree} of {len(drawn)} records agree")
    _keep(results, arguments, output)
    differ = any(result.verified.outcome is Verdict.DIFFERS for _, result in results)
    return 1 if differ else 2 if left_out or agree < len(drawn) else 0


def read_alone(path: Path) -> Record | str:
    """The record in a file, of any run; or the reason why it is none, in a few words."""
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        return reason(error)
    problem = unfinished(data, data.get("id") if isinstance(data, dict) else "")
    if not (problem or data["metrics"] or data["curves"]):
        problem = "it has no numbers"
    return problem or Record(path, with_derived(restored(data)[0]))


def _draw(table: Table, arguments: argparse.Namespace) -> Iterator[Drawn | str]:
    """The drawn records of a table, as jobs; a line of text for each that cannot be run, or for the table."""
    try:
        scale, tree = table.scale(arguments.scale), tree_of(table)
        where = output_paths(table, scale.label, tree, out=arguments.out, allow_dirty=True)
        collected = collect(table, scale, where.results)
    except UserError as error:
        yield str(error)
        return
    files = sorted(where.results.glob("*.json"))
    if not files:
        yield f"{table.path}: no record at scale {scale.label}; {_remedy(table, scale, where, arguments.out)}"
        return
    state = [tree.key] if tree.dirty else []  # of committed code `Drawn.rerun` tells which reruns are valid
    folder = usable_folder(where.scratch.joinpath("verified", *state, table.paper.key, table.name, scale.label))
    for file in _sample(files, arguments):
        record = read_alone(file)
        if problem := record if isinstance(record, str) else misnamed(record):
            yield plain(f"{file}: {problem}{'' if '; ' in problem else '; remove it, or run the table again'}")
            continue
        assert isinstance(record, Record)
        try:
            yield _job(collected, record, folder, where.scratch, tree)
        except UserError as error:
            yield plain(f"{file}: {error}")


def _job(collected: Collected, record: Record, folder: Path, scratch: Path, tree: Code) -> Drawn:
    """The rerun of a record, whose own record goes to `folder`."""
    table = collected.table
    config, origin = config_of(record.data, table)
    path = folder / f"{record.path.stem}__{run_id(config)}.json"  # a record whose config has changed is run again
    head = _head(record.data) | {"commit": tree.commit, "dirty": tree.dirty, "path": str(path)}
    head |= {"replaces": version_of(old.data)} if isinstance(old := read_alone(path), Record) else {}
    return Drawn(
        label=plain(f"{table.name}: {', '.join(filter(None, _labels(record.data)))}"),
        config=config,
        record=head,
        log=scratch / "logs" / f"{record.path.stem}.log",
        table=table,
        collected=collected,
        recorded=record,
        origin=origin,
    )


def _sample(files: Sequence[Path], arguments: argparse.Namespace) -> list[Path]:
    """As many files as asked for: drawn, or those whose runs took least CPU time (wall time in old records)."""
    number = min(arguments.sample, len(files))
    if arguments.cheapest:
        return sorted(sorted(files, key=_seconds)[:number])
    return sorted(random.Random(arguments.seed or 0).sample(files, number))


def _seconds(file: Path) -> float:
    record = read_alone(file)
    data = record.data if isinstance(record, Record) else {}
    return float(data.get("cpu_time_s") or data.get("wall_time_s") or 0)


def _remedy(table: Table, scale: Scale, where: OutputPaths, out: Path | None) -> str:
    """Another scale with records, or how to run the table."""
    others = options_with_records(table, scale, where.results.parent)
    command = shlex.join([*shlex.split(run_command(table, scale)), *(["--out", str(out)] if out else [])])
    return f"give {others[0]}, which has some" if others else f"run it first: {command}"


def _head(record: dict[str, Any]) -> dict[str, Any]:
    head = {key: record.get(key) for key in ("id", "paper", "table", "row", "column", "scale", "seed")}
    return head | ({"protocol": record["protocol"]} if "protocol" in record else {})


def _labels(record: dict[str, Any]) -> list[str]:
    return [str(record.get("row") or ""), str(record.get("column") or ""), f"seed {record['seed']}"]


def _run(jobs: Sequence[Drawn], outcomes: list[Outcome[Drawn]], workers: int, runner: str, output: Console) -> None:
    with reporter(len(jobs), output, [job.label for job in jobs]) as progress:
        with closing(run_jobs(jobs, workers=workers, reporter=progress, runner=runner)) as running:
            for outcome in running:
                outcomes.append(outcome)
                progress.ended(outcome.job.label, outcome.done.summary)


def _results(
    drawn: Sequence[Drawn], outcomes: Sequence[Outcome[Drawn]], output: Console
) -> list[tuple[Drawn, Checked]]:
    """The comparison for every record whose rerun has ended or failed."""
    ended = {outcome.job.record["path"]: outcome.done for outcome in outcomes}
    results = []
    for job in drawn:
        done, rerun = ended.get(job.record["path"]), job.rerun
        name = f"{job.collected.scale.label}/{job.recorded.path.name}"
        if rerun is not None:
            cell_id = "|".join(_labels(job.recorded.data)[:2])
            spreads = spreads_of(job.collected, cell_id, job.recorded)
            compared = compare_runs(job.recorded, rerun, spreads, _read_by(job.table))
            results.append((job, checked(name, rerun.data, compared, changed(job.recorded.data, job.config))))
        elif done and done.reason:
            results.append((job, failed(name, job.record["commit"], done.reason)))
            say(output, f"failed: {job.label}: {done.reason} (log: {job.log})")
        else:
            say(output, f"not finished: {job.label}: {done.summary if done else 'not run'}")
    return results


def _read_by(table: Table) -> set[str]:
    """Names of the metrics and curves that a table shows or draws."""
    metrics = [*(cell.metric for cell in table.cells), table.metric, *table.also]
    return {*(metric.name for metric in metrics), *(figure.y for figure in table.figures)}


def _keep(results: Sequence[tuple[Drawn, Checked]], arguments: argparse.Namespace, output: Console) -> None:
    """Write the results beside the records, unless the code has uncommitted changes."""
    dirty = [job for job, _ in results if job.record["dirty"]]
    if dirty and not arguments.allow_dirty:
        say(output, "the code has uncommitted changes: verified.json is not written; commit first or --allow-dirty")
        return
    for table in {id(job.table): job.table for job, _ in results}.values():
        if is_installed(path := file_of(table, arguments.out)):
            say(output, f"{path} is not written: it is in the installed package")
            continue
        entries = [result.verified for job, result in results if job.table is table]
        add_verified(path, entries)
