"""`lit-fa table published`: how many published numbers are settled, per table and over all of them."""

import json
from collections import Counter
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.table import Table as ConsoleTable

from lit_fa.escaping import literal, shown
from lit_fa.outputs import write_text
from lit_fa.reports.card import check_card, write_block
from lit_fa.results.settled import LEADING, SETTLED, Settled, State, settled
from lit_fa.spec.table import Table

BLOCK = "published"  # between the markers of a card


def print_published(
    tables: Sequence[Table], output: Console, json_file: Path | None = None, card: Path | None = None
) -> None:
    """Prints the counts of every table with a published number.

    Args:
        tables: to count.
        output: to print on.
        json_file: also written there.
        card: a README between whose markers the counts are written.

    Raises:
        UserError: the card has no markers for them, or a file cannot be written.
    """
    if card:
        check_card(card, [BLOCK])
    counts = [counted for counted in map(settled, tables) if counted.declared]
    view = ConsoleTable("table", "published", *LEADING)
    for counted in counts:
        view.add_row(shown(str(counted.table.path)), str(counted.declared), *_numbers(counted.counts))
    view.add_row("all", str(_total(counts).total()), *_numbers(_total(counts)), style="bold")
    output.print(view)
    if json_file:
        write_text(json_file, json.dumps([_entry(counted) for counted in counts], indent=1) + "\n", "--json")
    if card:
        write_block(card, BLOCK, published_block(counts, card))


def published_block(counts: Sequence[Settled], card: Path) -> str:
    """The counts by paper as Markdown, papers with more settled numbers first; links are relative to the card."""
    total = _total(counts)
    sentence = ", ".join(f"{total[state]} {state}" for state in LEADING if total[state])
    papers: dict[Path, list[Settled]] = {}
    for counted in counts:
        papers.setdefault(counted.table.path.parent, []).append(counted)
    rows = [(_title(folder), folder, _total(of)) for folder, of in papers.items()]
    rows.sort(key=lambda row: -sum(row[2][state] for state in SETTLED))
    lines = [f"**{total.total()} published numbers are declared: {sentence}.**", "", *_table("paper", rows, card)]
    return "\n".join(lines)


def by_table(counts: Sequence[Settled], card: Path) -> str:
    """The counts by table as Markdown; links are relative to the card."""
    rows = [(f"{c.table.paper.key}, {c.table.path.stem}", c.table.path.parent, c.counts) for c in counts]
    return "\n".join(_table("table", rows, card))


def _table(what: str, rows: Sequence[tuple[str, Path, Counter[State]]], card: Path) -> list[str]:
    """The lines of a Markdown table; each row has a label, the folder of its card, and counts."""
    lines = [f"| {what} | published | " + " | ".join(LEADING) + " |", "| --- " * (len(LEADING) + 2) + "|"]
    for label, folder, counts in rows:
        link = quote(Path(relpath(folder / "README.md", card.parent)).as_posix())
        lines.append(f"| [{literal(label)}]({link}) | {' | '.join([str(counts.total()), *_numbers(counts)])} |")
    return lines


def _title(folder: Path) -> str:
    """The heading of a paper's card, or the folder's name if there is none."""
    card = folder / "README.md"
    first = card.read_text(encoding="utf-8").partition("\n")[0] if card.is_file() else ""
    return first.removeprefix("# ") or folder.name


def _total(counts: Sequence[Settled]) -> Counter[State]:
    return sum((counted.counts for counted in counts), Counter())


def _numbers(counts: Counter[State]) -> list[str]:
    return [str(counts[state] or "") for state in LEADING]


def _entry(counted: Settled) -> dict[str, str | int]:
    states = {state.value: counted.counts[state] for state in LEADING}
    return {"table": str(counted.table.path), "published": counted.declared, **states}
