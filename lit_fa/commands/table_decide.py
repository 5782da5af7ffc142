"""`lit-fa table run --until-decided`: seeds are added while a verdict is undecided.

The seeds of a table's list are run first. Then every undecided cell gets the number of seeds that its verdict asks for,
at most doubling it in each step, because the spread of a few seeds is a poor estimate and every comparison is a test.
The further seeds are the integers that follow the list. A cell is complete when it agrees, differs or cannot be
decided, or when the budget is spent.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import Console

from lit_fa.commands.table_jobs import all_missing, missing_jobs
from lit_fa.commands.table_run import Training, expensive, would_run
from lit_fa.errors import UserError
from lit_fa.jobs.pool import Job
from lit_fa.jobs.progress import say
from lit_fa.reports.rows import verdict_text
from lit_fa.results.compare import Comparison, compare
from lit_fa.results.cost import estimate
from lit_fa.results.records import Collected, collect, curves_read
from lit_fa.results.verdict import Kind
from lit_fa.spec.command import read_only
from lit_fa.spec.expand import expand
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import Cell, Scale, Table

FEWEST = 3  # seeds from which a spread is estimated
SCALE = "full"  # the only scale with verdicts


def run_until_decided(
    tables: Sequence[Table], arguments: argparse.Namespace, output: Console, runner: str, command: str
) -> int:
    """Train the missing runs, then further seeds; the exit code as of `lit_fa.commands.table`."""
    tables = _check(tables, arguments, output)
    training = Training(tables, arguments, output, runner, command)
    jobs, broken = all_missing(tables, arguments, output)
    if arguments.dry_run:
        would_run(jobs or _further(tables, arguments, output), output)
        return 2 if broken else 0
    for line in expensive(tables, arguments, jobs):
        say(output, f"warning: {line}")
    code = training.train(jobs)
    while not code and (jobs := _further(tables, arguments, output)):
        if training.is_spent:
            say(output, f"the budget is spent: {len(jobs)} runs not begun; go on with: {command}")
            break
        before = len(training.outcomes)
        code = training.train(jobs)
        if not any(outcome.done.finished for outcome in training.outcomes[before:]):
            break  # other processes have these runs
    for table in tables:
        for row in compare(_collected(table, arguments)):
            if row.published:
                say(output, f"{table.name}: {_label(row)}: {verdict_text(row, table)}")
    return code or (2 if broken else 0)


def seeds_wanted(rows: Sequence[Comparison], scale: Scale) -> dict[str, tuple[int, ...]]:
    """Cell id to the further seeds that its undecided verdicts ask for now.

    A published difference needs both cells, and a number that several rows read needs all of them.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    for row in rows:
        n = row.summary.n
        if not _asks(row) or n < len(scale.seeds):
            continue
        total = row.verdict.seeds if n >= FEWEST else FEWEST
        more = min(total or 0, max(FEWEST, 2 * n)) - len(scale.seeds)
        first = max(scale.seeds) + 1
        for cell in (cell for one in rows if one.reading_of == row.reading_of for cell in _needed_by(one)):
            wanted[cell.id] = max(wanted.get(cell.id, ()), tuple(range(first, first + more)), key=len)
    return wanted


def _asks(row: Comparison) -> bool:
    """Whether more seeds may decide; fewer than `FEWEST` do not show that no number would."""
    return row.kind is Kind.UNDECIDED or (row.kind is Kind.UNDECIDABLE and row.summary.n < FEWEST)


def _needed_by(row: Comparison) -> list[Cell]:
    return [cell for cell in (row.cell, row.pair if row.of_difference else None) if cell is not None]


def _check(tables: Sequence[Table], arguments: argparse.Namespace, output: Console) -> list[Table]:
    """The tables that have the paper's scale.

    Raises:
        UserError: an option that contradicts, no such table, or code with uncommitted changes.
    """
    if arguments.seeds or arguments.id:
        raise UserError("--until-decided chooses the seeds itself; leave out --seeds and --id")
    if arguments.scale not in (None, SCALE):
        raise UserError(f"--until-decided: there are verdicts at scale {SCALE} only, not at {arguments.scale}")
    arguments.scale = SCALE
    chosen = [table for table in tables if SCALE in table.scales]
    for table in tables:
        if SCALE not in table.scales:
            say(output, f"left out: {table.path}: it has no scale {SCALE}, so there is no verdict to decide")
    if not chosen:
        raise UserError(f"--until-decided: no table has the scale {SCALE}")
    for table in chosen:
        _check_selected(table, read_only(arguments.only))
    if not arguments.allow_dirty and any(tree_of(table).dirty for table in chosen):
        raise UserError("--until-decided: the code has uncommitted changes, so no run counts; commit or --allow-dirty")
    return chosen


def _check_selected(table: Table, only: Mapping[str, Sequence[str]]) -> None:
    """Refuses a selection that leaves out a cell without which a verdict on a selected one cannot change."""
    selected = {run.cell.id: run.cell for run in expand(table, table.scale(SCALE), only=only)}
    for cell in table.cells:
        if cell.id in selected or SCALE not in cell.scales:
            continue
        for one in selected.values():
            paired = one.published_difference is not None and one.paired_with == cell.id
            if paired or (one.reading_of or one.id) == (cell.reading_of or cell.id):
                why = "is paired with" if paired else "reads the same published number as"
                raise UserError(f"--only leaves out {cell.id!r}, which {one.id!r} {why}; select both or neither")


def _further(tables: Sequence[Table], arguments: argparse.Namespace, output: Console) -> list[Job]:
    """The jobs of the seeds that undecided cells ask for."""
    jobs = []
    for table in tables:
        scale, tree = table.scale(SCALE), tree_of(table)
        where = output_paths(table, scale.label, tree, out=arguments.out, allow_dirty=arguments.allow_dirty)
        collected = _collected(table, arguments)
        cells = {run.cell.id for run in expand(table, scale, only=read_only(arguments.only))}
        rows = [row for row in compare(collected) if row.cell.id in cells]
        wanted = seeds_wanted(rows, scale)
        seeds = sorted({seed for more in wanted.values() for seed in more})
        if not seeds:
            continue
        runs = expand(table, replace(scale, seeds=tuple(seeds)), only=read_only(arguments.only))
        runs = [run for run in runs if run.seed in wanted.get(run.cell.id, ())]
        further, _ = missing_jobs(table, runs, where, tree, arguments.logger)
        jobs += further
        if further:
            say(output, f"{table.name}: {len(further)} further runs: {estimate(collected, runs).text}")
        for row in rows:
            if row.kind is Kind.UNDECIDED:
                say(output, f"{table.name}: {_label(row)}: undecided with {row.summary.n} seeds{_needed(row)}")
    return jobs


def _collected(table: Table, arguments: argparse.Namespace) -> Collected:
    scale = table.scale(SCALE)
    folder = output_paths(table, scale.label, tree_of(table), out=arguments.out).results
    return collect(table, scale, folder, curves=curves_read(table))


def _needed(row: Comparison) -> str:
    return f", {row.verdict.seeds} would decide as it stands" if row.verdict.seeds else ""


def _label(row: Comparison) -> str:
    labels = ", ".join(filter(None, (row.cell.row, row.cell.column)))
    return f"{labels}, difference" if row.of_difference else labels
