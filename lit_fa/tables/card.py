"""The result table in a paper's README, between two markers; CI asks whether it is what the records say."""

import re
from os.path import relpath
from pathlib import Path

from lit_fa.errors import UserError
from lit_fa.tables.collect import Collected, collect
from lit_fa.tables.compare import compare
from lit_fa.tables.plot import drawable, figure_path
from lit_fa.tables.render import markdown
from lit_fa.tables.schema import load_table

_SCALE = re.compile(r"<!-- scale: (\w+) -->")


def block(collected: Collected, card: Path, out: Path) -> str:
    """What stands between the markers of a card; links to figures in `out` are relative to the card."""
    images = [
        (figure.title or figure.y, Path(relpath(figure_path(collected, figure, out), card.parent)).as_posix())
        for figure in collected.table.figures
        if drawable(collected, figure)
    ]
    return f"<!-- scale: {collected.scale.name} -->\n{markdown(collected, compare(collected), images)}"


def markers(name: str) -> tuple[str, str]:
    """The two lines that enclose the table `name` in a card."""
    return f"<!-- table:{name}:begin -->", f"<!-- table:{name}:end -->"


def read_block(card: Path, name: str) -> str | None:
    """What the card holds for the table `name`, None where it has no card or no markers for it."""
    begin, end = markers(name)
    content = card.read_text(encoding="utf-8") if card.is_file() else ""
    if begin not in content or end not in content.split(begin, 1)[1]:
        return None
    return content.split(begin, 1)[1].split(end, 1)[0].strip()


def scale_in(card_block: str) -> str | None:
    """The scale that a card's block shows, None for an empty block."""
    found = _SCALE.search(card_block)
    return found.group(1) if found else None


def write_block(card: Path, name: str, content: str) -> None:
    """Replaces what stands between the markers; the rest of the card is kept to the byte.

    Raises:
        UserError: the card has no markers for this table.
    """
    begin, end = markers(name)
    if read_block(card, name) is None:
        raise UserError(f"{card}: no place for the table; add the two lines {begin} and {end}")
    before, rest = card.read_text(encoding="utf-8").split(begin, 1)
    after = rest.split(end, 1)[1]
    card.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")


def is_stale(table_path: Path | str, card_path: Path | str, out: Path | None = None) -> bool:
    """Whether the card shows anything else than what the committed records say, at the scale that the card shows.

    Args:
        table_path: the table's YAML.
        card_path: the README with the table's markers; without them, or with nothing between them, it is stale.
        out: the folder of the records, `results` beside the table unless it is given.
    """
    table, card = load_table(table_path), Path(card_path)
    out = out or table.path.parent / "results"
    shown = read_block(card, table.name)
    name = scale_in(shown or "")
    if shown is None or name not in table.scales:
        return True
    collected = collect(table, table.scale(name), out / table.name / name)
    return shown != block(collected, card, out).strip()
