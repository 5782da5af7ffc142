"""A report: records are read, compared and printed; cards, pictures and pages are written where asked for."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from lit_fa.errors import UserError
from lit_fa.escaping import plain
from lit_fa.outputs import write_text
from lit_fa.reports.card import block, check_card, markers, place, read_block, scale_in, write_block
from lit_fa.reports.columns import check_columns
from lit_fa.reports.figures import by_row, draw, draw_to, figure_path
from lit_fa.reports.formats import comma_separated, console, entries, latex
from lit_fa.results.compare import Comparison, compare
from lit_fa.results.records import Collected, collect, curves_read
from lit_fa.results.stale import stale_line
from lit_fa.shipped import is_installed
from lit_fa.spec.command import options_with_records
from lit_fa.spec.output_paths import OutputPaths, check_inside, dirty_records, output_paths, tree_of
from lit_fa.spec.table import Table

BESIDE = Path("the README.md beside the table")  # stands for the card of each table's own paper
_NOTHING = "nothing was written; --card updates the card beside the table and its pictures, --draw the pictures alone"


def report(
    tables: Sequence[Table],
    output: Console,
    *,
    scale: str | None = None,
    out: Path | None = None,
    card: Path | None = None,
    form: str = "console",
    as_json: Path | None = None,
    write: Path | None = None,
    columns: Sequence[str] = (),
    by_row_to: Path | None = None,
    draws: bool = False,
) -> int:
    """Prints each table in the format `form`, and what was written; without an option that asks for it, nothing is.

    `card` writes the table between its markers in that file and draws the figures that the table declares, beside the
    records. `BESIDE` is the README beside each table, if it has the table's markers and shows this scale or nothing
    yet; records of another folder (`out`) never change it. `draws` draws the figures alone. HTML pages go to `write`.
    `by_row_to` is a file for the figure `figures.by_row`. `columns` are names of `reports.columns`, for what is printed
    and for pages; cards and JSON are complete. Nothing is written into an installed package.

    Returns:
        The number of errors: tables that cannot be read, cards and figures that cannot be written. Each is printed in
        one line, and the rest is done.

    Raises:
        UserError: the only table cannot be read, no table has one of the columns, `card` has no markers for a table, or
            an output file cannot be written.
    """
    check_columns(columns, tables)
    if by_row_to and len(tables) > 1:
        raise UserError(f"--figure takes one table, not {len(tables)}; give its file")
    done = _Done(Console(stderr=True, emoji=False) if form != "console" else output)
    reports = _read(tables, scale, out, write is not None, done)
    if card and card is not BESIDE:
        check_card(card, [place(card, collected) for collected, *_ in reports])
    for collected, compared, where in reports:
        figures = out or where.results.parent.parent
        done.attempt(_print, collected, compared, form, figures, output, columns)
        if card or draws:
            done.attempt(_draw, collected, where, out, done)
        done.attempt(_print_problems, collected, where, done.output)
        if card:
            done.attempt(_write_card, collected, figures, out, card, done)
    pairs = [(collected, compared) for collected, compared, _ in reports]
    if as_json:
        data = [entry for pair in pairs for entry in entries(*pair)]
        done.made.append(f"wrote {write_text(as_json, json.dumps(data, indent=1) + chr(10), '--json')}")
    if by_row_to:
        done.attempt(_draw_by_row, reports[0][0], by_row_to, done)
    if write:
        done.made += _write_pages(pairs, write, columns)
    return done.summarise()


@dataclass
class _Done:
    """What a report has written, and the errors of what it could not write."""

    output: Console
    made: list[str] = field(default_factory=list)
    problems: list[UserError] = field(default_factory=list)

    def attempt(self, step: Callable[..., None], *arguments: Any) -> None:
        """One step, after whose error the report goes on."""
        try:
            step(*arguments)
        except UserError as error:
            self.problems.append(error)

    def summarise(self) -> int:
        """Prints a line for each; the number of errors."""
        for line in self.made or [_NOTHING]:
            _print_line(self.output, line)
        for problem in self.problems:
            _print_line(self.output, f"left out: {plain(str(problem))}")
        return len(self.problems)


def _read(
    tables: Sequence[Table], scale: str | None, out: Path | None, every_curve: bool, done: _Done
) -> list[tuple[Collected, list[Comparison], OutputPaths]]:
    """The tables that can be read; the error of the only one is raised."""
    reports = []
    for table in tables:
        try:
            reports.append(_compared(table, scale, out, curves=None if every_curve else curves_read(table)))
        except UserError as error:
            if len(tables) == 1:
                raise
            done.problems.append(error)
    return reports


def _compared(
    table: Table, scale: str | None, out: Path | None, curves: Collection[str] | None
) -> tuple[Collected, list[Comparison], OutputPaths]:
    """A table's records with these curves, the comparisons, and where the records are."""
    chosen = table.scale(scale)
    where = output_paths(table, chosen.label, tree_of(table), out=out)
    collected = collect(table, chosen, where.results, curves=curves)
    return collected, compare(collected), where


def _write_pages(
    compared: Sequence[tuple[Collected, Sequence[Comparison]]], folder: Path, columns: Sequence[str]
) -> list[str]:
    from lit_fa.reports.pages import write_pages  # templates are slow to import, and only pages need them

    return [f"wrote {page}" for page in write_pages(compared, folder, columns)]


def _print(
    collected: Collected,
    compared: Sequence[Comparison],
    form: str,
    out: Path,
    output: Console,
    columns: Sequence[str],
) -> None:
    if form == "console":
        output.print(console(collected, compared, columns))
    elif form == "md":
        _print_line(output, block(collected, collected.table.path, out, columns))
    else:
        write = latex if form == "latex" else comma_separated
        _print_line(output, write(collected, compared, columns).rstrip("\n"))


def _draw(collected: Collected, where: OutputPaths, out: Path | None, done: _Done) -> None:
    if out is None and is_installed(collected.table.path):
        _print_line(done.output, f"{collected.table.path} is part of an installed package: give --out for its figures")
        return
    folder = out or where.results.parent.parent
    for figure in collected.table.figures:
        if out is None:
            check_inside(figure_path(collected, figure, folder), collected.table, where.scratch)
        if path := draw(collected, figure, folder):
            done.made.append(f"drew {path}")
        else:
            _print_line(done.output, f"{figure.file}: no record has {figure.y}; not drawn")


def _draw_by_row(collected: Collected, path: Path, done: _Done) -> None:
    figure = by_row(collected.table, path.name)
    if draw_to(collected, figure, path) is None:
        raise UserError(
            f"--figure {path}: no record at the {collected.scale.label} scale has {figure.y}; run the table"
        )
    done.made.append(f"drew {path}")


def _write_card(collected: Collected, figures: Path, out: Path | None, card: Path, done: _Done) -> None:
    if target := _own_card(collected, out, done.output) if card is BESIDE else card:
        write_block(target, place(target, collected), block(collected, target, figures))
        done.made.append(f"wrote the table into {target}")


def _print_problems(collected: Collected, where: OutputPaths, output: Console) -> None:
    for problem in collected.problems:
        _print_line(output, f"skipped {problem}")
    others = options_with_records(collected.table, collected.scale, where.results.parent)
    if others and not collected.ended:
        _print_line(output, f"no record at scale {collected.scale.label}, but with {' and with '.join(others)}")
    if line := stale_line(collected):
        _print_line(output, line)
    scale, missing = collected.scale.label, {run.file_name for run in collected.missing}
    dirty = dirty_records(collected.table, scale, where.scratch) if collected.scale.name != "smoke" else []
    if ignored := len({path.name for path in dirty} & missing):
        _print_line(
            output, f"{ignored} dirty runs not counted (in {where.scratch}); commit and run again, or --allow-dirty"
        )
    if any(record.data.get("commit") == "unknown" for record in collected.all):
        _print_line(output, "the commit of some runs is unknown (no git where they ran); they are counted")


def _own_card(collected: Collected, out: Path | None, output: Console) -> Path | None:
    """The README beside the table; None, with a line that says why, if it is not to be changed."""
    card = collected.table.path.parent / "README.md"
    shown, label = read_block(card, place(card, collected)), collected.scale.label
    why = ""
    if out is not None:
        why = f"the records in {out} do not change it; give --card {card} if they shall"
    elif is_installed(card):
        why = "it is part of an installed package; give --card and a file of your own"
    elif shown is None:
        begin, end = markers(place(card, collected))
        why = f"it has no place for the table; add the two lines {begin} and {end}"
    elif collected.scale.name == "smoke":
        why = "the smoke scale shows that a table runs, not what comes out"
    elif scale_in(shown) not in (None, label):
        why = f"it shows the {scale_in(shown)} scale; give --card {card} to replace it"
    if why:
        _print_line(output, f"{card} is left alone: {why}")
    return None if why else card


def _print_line(output: Console, text: str) -> None:
    output.print(text, markup=False, highlight=False, soft_wrap=True)
