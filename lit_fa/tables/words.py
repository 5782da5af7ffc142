"""A card in HTML: what its author wrote, cut at the places of its tables; formulas become MathML."""

import re
from collections.abc import Callable
from os.path import relpath
from pathlib import Path

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

_TABLE = re.compile(r"<!-- table:([^:]+):begin -->.*?<!-- table:\1:end -->", re.S)
_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\w$\\])\$(?P<inline>[^$\s](?:[^$\n]*[^$\s])?)\$(?![\w$])", re.S)
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.S)


def story(card: Path, folder: Path) -> tuple[str, list[tuple[str, Markup]]]:
    """The card's title, and its pieces in order: ("words", HTML) or ("table", name); nothing where there is no card.

    Args:
        card: the README with the markers of its tables.
        folder: of the page; relative links are made to work from there. Images by hand are left out.
    """
    content = card.read_text(encoding="utf-8") if card.is_file() else ""
    title, pieces, since = "", [], 0
    if found := re.match(r"\s*# (.+)\n", content):
        title, since = found.group(1).strip(), found.end()
    for table in _TABLE.finditer(content):
        pieces += [("words", content[since : table.start()]), ("table", Markup(escape(table.group(1))))]
        since = table.end()
    pieces.append(("words", content[since:]))
    shown = [(kind, part if kind == "table" else _html(part, card.parent, folder)) for kind, part in pieces]
    return title, [(kind, part) for kind, part in shown if part]


def _html(markdown: str, home: Path, folder: Path) -> Markup:
    """Markdown without raw HTML; a formula waits as a word that Markdown leaves alone."""
    formulas: list[str] = []
    source = _outside_code(markdown, lambda text: _FORMULA.sub(lambda found: _kept(found, formulas), text))
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(source)
    for inline in (token for token in tokens if token.children):
        inline.children = [child for child in inline.children if child.type != "image"]
        for child in inline.children:
            target = child.attrGet("href")
            if target and not re.match(r"[a-z]+:|#", target):
                child.attrSet("href", Path(relpath(home / target, folder)).as_posix())
    html = parser.renderer.render(tokens, parser.options, {})
    html = html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
    return Markup(re.sub(r"FORMULA(\d+)END", lambda found: formulas[int(found.group(1))], html).strip())


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    parts, since = [], 0
    for code in _CODE.finditer(markdown):
        parts += [change(markdown[since : code.start()]), code.group()]
        since = code.end()
    return "".join([*parts, change(markdown[since:])])


def _kept(found: re.Match, formulas: list[str]) -> str:
    """Puts a formula by; one that cannot be read stays as it is written."""
    block = found.group("block")
    try:
        math = convert((block or found.group("inline")).strip(), display="block" if block else "inline")
    except Exception:  # the package raises a class of its own for every kind of mistake
        return found.group()
    math = math.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")
    formulas.append(f'<span class="formula">{math}</span>' if block else math)
    return f"FORMULA{len(formulas) - 1}END"
