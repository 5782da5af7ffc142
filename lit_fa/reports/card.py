"""The result table in a paper's README, between two markers; a test checks it against the records."""

import re
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path

from lit_fa.bounded_reading import bounded, reason
from lit_fa.errors import UserError
from lit_fa.outputs import write_text
from lit_fa.reports.figures import drawable, figure_path
from lit_fa.reports.formats import markdown
from lit_fa.results.compare import compare
from lit_fa.results.records import Collected, collect
from lit_fa.spec.table import Table, load_table

_FENCE = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1", re.M | re.S)
_SCALE = re.compile(r"<!-- scale: ([\w-]+) -->")


def block(collected: Collected, card: Path, out: Path, columns: Sequence[str] = ()) -> str:
    """The text between the markers of a card; links to figures in `out` are relative to the card.

    A card has all columns, so that a test can render it again.
    """
    images = [
        (figure.title or figure.y, Path(relpath(figure_path(collected, figure, out), card.parent)).as_posix())
        for figure in collected.table.figures
        if drawable(collected, figure)
    ]
    return f"<!-- scale: {collected.scale.label} -->\n{markdown(collected, compare(collected), images, columns)}"


def markers(name: str) -> tuple[str, str]:
    """The two lines that enclose the table `name` in a card."""
    return f"<!-- table:{name}:begin -->", f"<!-- table:{name}:end -->"


def read_card(card: Path) -> str:
    """The text of a card with its own line ends; "" if there is no card.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    if not card.is_file():
        return ""
    try:
        return bounded(card).decode()
    except (OSError, ValueError) as error:
        raise UserError(f"{card}: cannot be read ({reason(error)}); save it as UTF-8 text") from None


def read_block(card: Path, name: str) -> str | None:
    """The text for the table `name` in a card; None if there is no card or it has no markers for the table.

    Raises:
        UserError: the card cannot be read, or has the markers more than once.
    """
    content = read_card(card)
    span = _span(content, name, card)
    return None if span is None else content[slice(*span)].replace("\r\n", "\n").strip()


def _span(content: str, name: str, card: Path) -> tuple[int, int] | None:
    """Begin and end of the text between the markers. A marker is a line of its own, outside fenced code."""
    begins, ends = (_lines(content, marker) for marker in markers(name))
    if len(begins) > 1 or len(ends) > 1:
        raise UserError(f"{card}: the markers of the table {name} are there more than once; keep one pair")
    if not begins or not ends or ends[0].start() < begins[0].end():
        return None
    return begins[0].end(), ends[0].start()


def _required_span(content: str, name: str, card: Path) -> tuple[int, int]:
    span = _span(content, name, card)
    if span is None:
        begin, end = markers(name)
        raise UserError(f"{card}: no place for the table; add the two lines {begin} and {end}")
    return span


def _lines(content: str, marker: str) -> list[re.Match[str]]:
    fences = [fence.span() for fence in _FENCE.finditer(content)]
    lines = re.finditer(rf"^[ \t]*{re.escape(marker)}[ \t]*\r?$", content, re.M)
    return [line for line in lines if not any(begin < line.start() < end for begin, end in fences)]


def scale_in(card_block: str) -> str | None:
    """The label of the scale that a card's block shows, None for an empty block."""
    match = _SCALE.search(card_block)
    return match.group(1) if match else None


def check_card(card: Path, names: Sequence[str]) -> None:
    """Refuse a card without markers for one of the tables.

    Raises:
        UserError: which two lines to add.
    """
    for name in names:
        _required_span(read_card(card), name, card)


def write_block(card: Path, name: str, content: str) -> None:
    """Replaces the text between the markers; no other byte of the card changes.

    Raises:
        UserError: the card has no markers for this table, or cannot be read or written.
    """
    before = read_card(card)
    begin, end = _required_span(before, name, card)
    between = f"\n{content}\n"
    if "\r\n" in before:
        between = between.replace("\n", "\r\n")
    write_text(card, f"{before[:begin].removesuffix(chr(13))}{between}{before[end:]}")


def place(card: Path, collected: Collected) -> str:
    """The name in the markers for a table: `NAME@SCALE` if the card has these, so that it can show several scales."""
    own = f"{collected.table.name}@{collected.scale.label}"
    return own if read_block(card, own) is not None else collected.table.name


def is_stale(table_path: Path | str, card_path: Path | str, out: Path | None = None) -> bool:
    """Whether the card differs from what its records give, at the scales that it shows.

    Args:
        table_path: the table's YAML.
        card_path: the README with the table's markers; it is stale without them, or with nothing between them.
        out: the folder of the records, `results` beside the table unless it is given.
    """
    table, card = load_table(table_path), Path(card_path)
    out = out or table.path.parent / "results"
    names = re.findall(rf"<!-- table:({re.escape(table.name)}(?:@[\w-]+)?):begin -->", read_card(card))
    blocks = [shown for name in names if (shown := read_block(card, name)) is not None]
    return not blocks or any(_differs(shown, table, card, out) for shown in blocks)


def _differs(shown: str, table: Table, card: Path, out: Path) -> bool:
    label = scale_in(shown)
    if label is None or label.partition("-")[0] not in table.scales:
        return True
    collected = collect(*table.labelled(label), out / table.name / label)
    return shown != block(collected, card, out).strip()
