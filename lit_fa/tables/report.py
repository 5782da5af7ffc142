"""A report: records read, compared, printed, drawn, and written into the card."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lit_fa.tables import render
from lit_fa.tables.card import block, read_block, scale_in, write_block
from lit_fa.tables.collect import Collected, collect
from lit_fa.tables.compare import Comparison, compare
from lit_fa.tables.places import Places, dirty_records, places, tree_of
from lit_fa.tables.plot import draw
from lit_fa.tables.schema import Table
from lit_fa.tables.stale import stale_line


def report(
    tables: Sequence[Table],
    output: Console,
    scale: str | None = None,
    out: Path | None = None,
    card: Path | None = None,
    form: str = "console",
    as_json: Path | None = None,
    write: Path | None = None,
) -> None:
    """Prints each table in the asked form, draws its figures, and brings its card up to date; pages go to `write`.

    Without `card`, the README beside the table is written if it has the table's markers and shows this scale or
    nothing yet, and only for the records in the default folder: an experiment elsewhere leaves the card alone.
    """
    shown = []
    for table in tables:
        chosen = table.scale(scale)
        where = places(table, chosen.name, tree_of(table), out=out)
        collected = collect(table, chosen, where.results)
        compared = compare(collected)
        shown.append((collected, compared))
        figures = out or where.results.parent.parent
        _print(collected, compared, form, figures, output)
        quiet = Console(stderr=True) if form != "console" else output
        _draw(collected, figures, quiet)
        _say_problems(collected, where, quiet)
        if target := card or _default_card(collected, out, quiet):
            write_block(target, table.name, block(collected, target, figures))
            _say(quiet, f"wrote the table into {target}")
    if as_json:
        data = [entry for both in shown for entry in render.entries(*both)]
        as_json.parent.mkdir(parents=True, exist_ok=True)
        as_json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if write:
        _write_pages(shown, write, Console(stderr=True) if form != "console" else output)


def _write_pages(shown: Sequence[tuple[Collected, Sequence[Comparison]]], folder: Path, output: Console) -> None:
    from lit_fa.tables.pages import write_pages  # templates take time to import; only pages need them

    for page in write_pages(shown, folder):
        _say(output, f"wrote {page}")


def _print(collected: Collected, compared: Sequence[Comparison], form: str, out: Path, output: Console) -> None:
    if form == "console":
        output.print(render.console(collected, compared))
    elif form == "md":
        _say(output, block(collected, collected.table.path, out))
    else:
        _say(output, (render.latex if form == "latex" else render.comma_separated)(collected, compared).rstrip("\n"))


def _draw(collected: Collected, out: Path, output: Console) -> None:
    for figure in collected.table.figures:
        path = draw(collected, figure, out)
        _say(output, f"drew {path}" if path else f"{figure.file}: no record has {figure.y}; not drawn")


def _say_problems(collected: Collected, where: Places, output: Console) -> None:
    for problem in collected.problems:
        _say(output, f"skipped {problem}")
    if line := stale_line(collected):
        _say(output, line)
    names = {run.file_name for run in collected.missing}
    aside = (
        dirty_records(collected.table, collected.scale.name, where.scratch) if collected.scale.name != "smoke" else []
    )
    if ignored := len({path.name for path in aside} & names):
        _say(output, f"{ignored} dirty runs not counted (in {where.scratch}); commit and run again, or --allow-dirty")
    if any(record.data.get("commit") == "unknown" for record in collected.all):
        _say(output, "the commit of some runs is unknown (no git where they ran); they are counted")


def _default_card(collected: Collected, out: Path | None, output: Console) -> Path | None:
    card = collected.table.path.parent / "README.md"
    shown = read_block(card, collected.table.name)
    if shown is None or out is not None or collected.scale.name == "smoke":
        return None
    if scale_in(shown) not in (None, collected.scale.name):
        _say(output, f"{card} shows the {scale_in(shown)} scale and is left alone; give --card {card} to replace it")
        return None
    return card


def _say(output: Console, text: str) -> None:
    output.print(text, markup=False, highlight=False, soft_wrap=True)
