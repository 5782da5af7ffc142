"""The state of a table during its runs, in any process: finished seeds, running processes, numbers so far."""

import statistics
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Group
from rich.table import Table as ConsoleTable
from rich.text import Text

from lit_fa.errors import UserError
from lit_fa.escaping import plain, shown
from lit_fa.jobs.lock import holder, lock_of
from lit_fa.results.records import Record, read_record
from lit_fa.results.summary import headline, mean_sd, summarise
from lit_fa.spec.expand import Run, expand
from lit_fa.spec.output_paths import OutputPaths, output_paths, tree_of
from lit_fa.spec.table import Cell, Table

_LONGEST = 10**12  # seconds


def look(tables: Sequence[Table], scale: str | None, out: Path | None) -> tuple[Group, int]:
    """The current state of the tables, and the number of runs that are left."""
    views: list[ConsoleTable | Text] = []
    left = 0
    for table in tables:
        chosen, tree = table.scale(scale), tree_of(table)
        where = output_paths(table, chosen.label, tree, out=out)
        try:
            runs = expand(table, chosen)
        except UserError as error:
            if len(tables) == 1:
                raise
            views.append(Text(plain(f"left out: {error}")))
            continue
        records = {run.file_name: record for run in runs if (record := _record(run, where))}
        at_work = {run.file_name: who for run in runs if (who := _at_work(run, records, where))}
        views.append(_view(table, chosen.label, runs, records, at_work))
        left += len(runs) - len(records)
    return Group(*views), left


def _record(run: Run, where: OutputPaths) -> Record | None:
    records = (read_record(folder / run.file_name, run)[0] for folder in (where.results, where.target))
    return next((record for record in records if record), None)


def _at_work(run: Run, records: dict[str, Record], where: OutputPaths) -> str:
    return "" if run.file_name in records else holder(lock_of(where.target / run.file_name))


def _view(
    table: Table, scale: str, runs: Sequence[Run], records: dict[str, Record], at_work: dict[str, str]
) -> ConsoleTable:
    title = shown(f"{table.path} ({scale}): {len(records)} of {len(runs)} runs done")
    titles = ("row", "column", "seeds", shown(headline(table.metric)), "at work")
    view = ConsoleTable(*titles, title=title, title_justify="left")
    view.caption = _time_left(len(runs) - len(records), list(records.values()), len(at_work))
    for cell in dict.fromkeys(run.cell.id for run in runs):
        view.add_row(*map(shown, _row([run for run in runs if run.cell.id == cell], records, at_work)))
    return view


def _row(runs: Sequence[Run], records: dict[str, Record], at_work: dict[str, str]) -> list[str]:
    cell: Cell = runs[0].cell
    done = [records[run.file_name] for run in runs if run.file_name in records]
    values = [v for record in done if not record.diverged and (v := record.value(cell.metric)) is not None]
    lost = sum(bool(record.diverged) for record in done)
    busy = [f"seed {run.seed}: {at_work[run.file_name]}" for run in runs if run.file_name in at_work]
    seeds = f"{len(done)}/{len(runs)}" + (f", {lost} diverged" if lost else "")
    return [cell.row, cell.column, seeds, mean_sd(summarise(values, cell.metric)), "; ".join(busy)]


def _time_left(left: int, done: Sequence[Record], workers: int) -> str:
    """An estimate from the median wall time of the finished runs."""
    spent = [record.data["wall_time_s"] for record in done if isinstance(record.data.get("wall_time_s"), int | float)]
    if not left or not workers or not spent:
        return "" if not left else f"{left} runs left, {workers} at work"
    guess = timedelta(seconds=min(round(statistics.median(spent) * left / workers), _LONGEST))
    return f"{left} runs left, {workers} at work, about {guess}"
