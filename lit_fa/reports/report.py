"""A report: records are read, compared, printed and drawn, and the card is written."""

import json
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from lit_fa.errors import UserError
from lit_fa.escaping import plain
from lit_fa.outputs import write_text
from lit_fa.reports.card import block, check_card, place, read_block, scale_in, write_block
from lit_fa.reports.columns import check_columns
from lit_fa.reports.figures import by_row, draw, draw_to, figure_path
from lit_fa.reports.formats import comma_separated, console, entries, latex
from lit_fa.results.compare import Comparison, compare
from lit_fa.results.records import Collected, collect, curves_read
from lit_fa.results.stale import stale_line
from lit_fa.shipped import is_installed
from lit_fa.spec.output_paths import OutputPaths, check_inside, dirty_records, output_paths, tree_of
from lit_fa.spec.table import Table


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
) -> int:
    """Prints each table in the format `form`, draws its figures and updates its card; HTML pages go to `write`.

    `by_row_to` is a file for the figure `figures.by_row`. `columns` are names of `reports.columns`, for what is printed
    and for pages; cards and JSON are complete. Without `card`, the README beside the table is updated if it has the
    table's markers and shows this scale or nothing yet. Records of another folder (`out`) never change it.
    Nothing is written into an installed package.

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
    quiet = Console(stderr=True) if form != "console" else output
    reports, problems = [], []
    for table in tables:
        try:
            reports.append(_compared(table, scale, out, curves=None if write else curves_read(table)))
        except UserError as error:
            if len(tables) == 1:
                raise
            problems.append(error)
    if card:
        check_card(card, [place(card, collected) for collected, *_ in reports])
    for collected, compared, where in reports:
        figures = out or where.results.parent.parent
        steps = (
            partial(_print, collected, compared, form, figures, output, columns),
            partial(_draw, collected, where, out, quiet),
            partial(_print_problems, collected, where, quiet),
            partial(_write_card, collected, figures, out, card, quiet),
        )
        problems += [error for error in map(_error_of, steps) if error]
    if as_json:
        data = [entry for collected, compared, _ in reports for entry in entries(collected, compared)]
        write_text(as_json, json.dumps(data, indent=1) + "\n", "--json")
    if by_row_to:
        problems += [error for error in [_error_of(partial(_draw_by_row, reports[0][0], by_row_to, quiet))] if error]
    if write:
        _write_pages([(collected, compared) for collected, compared, _ in reports], write, quiet, columns)
    for problem in problems:
        _print_line(quiet, f"left out: {plain(str(problem))}")
    return len(problems)


def _compared(
    table: Table, scale: str | None, out: Path | None, curves: Collection[str] | None
) -> tuple[Collected, list[Comparison], OutputPaths]:
    """A table's records with these curves, the comparisons, and where the records are."""
    chosen = table.scale(scale)
    where = output_paths(table, chosen.label, tree_of(table), out=out)
    collected = collect(table, chosen, where.results, curves=curves)
    return collected, compare(collected), where


def _error_of(step: Callable[[], None]) -> UserError | None:
    try:
        step()
    except UserError as error:
        return error
    return None


def _write_pages(
    compared: Sequence[tuple[Collected, Sequence[Comparison]]], folder: Path, output: Console, columns: Sequence[str]
) -> None:
    from lit_fa.reports.pages import write_pages  # templates are slow to import, and only pages need them

    for page in write_pages(compared, folder, columns):
        _print_line(output, f"wrote {page}")


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


def _draw(collected: Collected, where: OutputPaths, out: Path | None, output: Console) -> None:
    if out is None and is_installed(collected.table.path):
        return
    folder = out or where.results.parent.parent
    for figure in collected.table.figures:
        if out is None:
            check_inside(figure_path(collected, figure, folder), collected.table, where.scratch)
        path = draw(collected, figure, folder)
        _print_line(output, f"drew {path}" if path else f"{figure.file}: no record has {figure.y}; not drawn")


def _draw_by_row(collected: Collected, path: Path, output: Console) -> None:
    figure = by_row(collected.table, path.name)
    if draw_to(collected, figure, path) is None:
        raise UserError(
            f"--figure {path}: no record at the {collected.scale.label} scale has {figure.y}; run the table"
        )
    _print_line(output, f"drew {path}")


def _write_card(collected: Collected, figures: Path, out: Path | None, card: Path | None, output: Console) -> None:
    if target := card or _default_card(collected, out, output):
        write_block(target, place(target, collected), block(collected, target, figures))
        _print_line(output, f"wrote the table into {target}")


def _print_problems(collected: Collected, where: OutputPaths, output: Console) -> None:
    for problem in collected.problems:
        _print_line(output, f"skipped {problem}")
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


def _default_card(collected: Collected, out: Path | None, output: Console) -> Path | None:
    card = collected.table.path.parent / "README.md"
    shown = read_block(card, place(card, collected))
    if shown is None or out is not None or collected.scale.name == "smoke" or is_installed(card):
        return None
    if scale_in(shown) not in (None, collected.scale.label):
        _print_line(
            output, f"{card} shows the {scale_in(shown)} scale and is left alone; give --card {card} to replace it"
        )
        return None
    return card


def _print_line(output: Console, text: str) -> None:
    output.print(text, markup=False, highlight=False, soft_wrap=True)
