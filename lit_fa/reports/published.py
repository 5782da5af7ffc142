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
from lit_fa.results.settled import Settled, State, settled
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
    view = ConsoleTable("table", "published", *State)
    for counted in counts:
        view.add_row(shown(str(counted.table.path)), str(counted.declared), *_numbers(counted.counts))
    view.add_row("all", str(_total(counts).total()), *_numbers(_total(counts)), style="bold")
    output.print(view)
    if json_file:
        write_text(json_file, json.dumps([_entry(counted) for counted in counts], indent=1) + "\n", "--json")
    if card:
        write_block(card, BLOCK, published_block(counts, card))


def published_block(counts: Sequence[Settled], card: Path) -> str:
    """The counts as Markdown; links are relative to the card."""
    total = _total(counts)
    sentence = ", ".join(f"{total[state]} {state}" for state in State)
    lines = [f"**{total.total()} published numbers are declared: {sentence}.**", ""]
    lines += ["<details><summary>by table</summary>", ""]
    lines += ["| table | published | " + " | ".join(State) + " |", "| --- " * (len(State) + 2) + "|"]
    for counted in counts:
        path = counted.table.path
        link = quote(Path(relpath(path.parent / "README.md", card.parent)).as_posix())
        cells = (str(counted.declared), *_numbers(counted.counts))
        lines.append(f"| [{literal(counted.table.paper.key)}, {literal(path.stem)}]({link}) | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "</details>"])


def _total(counts: Sequence[Settled]) -> Counter[State]:
    return sum((counted.counts for counted in counts), Counter())


def _numbers(counts: Counter[State]) -> list[str]:
    return [str(counts[state] or "") for state in State]


def _entry(counted: Settled) -> dict[str, str | int]:
    states = {state.value: counted.counts[state] for state in State}
    return {"table": str(counted.table.path), "published": counted.declared, **states}
