"""A card in HTML: what its author wrote, cut at the places of its tables; formulas become MathML."""

import re
import secrets
from collections.abc import Callable, Iterator
from os.path import relpath
from pathlib import Path
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from lit_fa.reports.card import read_card
from lit_fa.reports.formulas import mathml

_TABLE = re.compile(r"^[ \t]*<!-- table:([^\n]+):begin -->[ \t]*$.*?^[ \t]*<!-- table:\1:end -->[ \t]*$", re.S | re.M)
_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\w$\\])\$(?P<inline>[^$\s](?:[^$\n]*[^$\s])?)\$(?![\w$])", re.S)
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.S)
_SCHEMES = ("http", "https", "mailto")


def story(card: Path, folder: Path) -> tuple[str, list[tuple[str, Markup]]]:
    """The card's title, and its pieces in order: ("words", HTML) or ("table", name); nothing where there is no card.

    Args:
        card: the README with the markers of its tables.
        folder: of the page; relative links are made to work from there. Images by hand are left out.

    Raises:
        UserError: the card cannot be read.
    """
    content = read_card(card).replace("\r\n", "\n")
    title, pieces, since = "", [], 0
    if found := re.match(r"\s*# (.+)\n", content):
        title, since = found.group(1).strip(), found.end()
    for table in _TABLE.finditer(content):
        pieces += [("words", content[since : table.start()]), ("table", Markup(escape(table.group(1))))]
        since = table.end()
    pieces.append(("words", content[since:]))
    shown = [(kind, part if kind == "table" else _html(part, card.parent, folder)) for kind, part in pieces]
    return title, [(kind, part) for kind, part in shown if part]


class _Formulas:
    """The formulas of a text, each waiting as a word that Markdown leaves alone and that nobody can guess."""

    def __init__(self) -> None:
        self.name = f"FORMULA{secrets.token_hex(8)}N"
        self.word = re.compile(rf"{self.name}(\d+)END")
        self.kept: list[tuple[str, str]] = []  # as written, as HTML

    def keep(self, found: re.Match) -> str:
        """Puts a formula by; one that cannot be read stays as it is written."""
        block = found.group("block")
        math = mathml((block or found.group("inline")).strip(), block=bool(block))
        if math is None:
            return found.group()
        self.kept.append((found.group(), f'<span class="formula">{math}</span>' if block else math))
        return f"{self.name}{len(self.kept) - 1}END"

    def as_written(self, text: str) -> str:
        """The text with its formulas as they were: in code, in an address, in a title."""
        return self.word.sub(lambda found: self.kept[int(found.group(1))][0], text)

    def drawn(self, token: Token) -> Iterator[Token]:
        """A text as tokens, its formulas as HTML."""
        for i, part in enumerate(self.word.split(token.content)):  # words and numbers alternate
            kind, content = ("html_inline", self.kept[int(part)][1]) if i % 2 else ("text", part)
            if content:
                yield Token(kind, "", 0, content=content, level=token.level)


def _html(markdown: str, home: Path, folder: Path) -> Markup:
    """Markdown without raw HTML and images; links lead to files beside the card or to the web."""
    formulas = _Formulas()
    source = _outside_code(markdown, lambda text: _FORMULA.sub(formulas.keep, text))
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(source)
    for token in tokens:
        if token.children is None:
            token.content, token.info = formulas.as_written(token.content), formulas.as_written(token.info)
        else:
            token.children = list(_inline(token.children, formulas, home, folder))
    html = parser.renderer.render(tokens, parser.options, {})
    html = html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
    return Markup(html.strip())


def _inline(children: list[Token], formulas: _Formulas, home: Path, folder: Path) -> Iterator[Token]:
    for child in children:
        child.attrs = {name: formulas.as_written(str(value)) for name, value in child.attrs.items()}
        if child.type == "text":
            yield from formulas.drawn(child)
        elif child.type != "image":
            child.content = formulas.as_written(child.content)
            if "href" in child.attrs:
                child.attrs["href"] = _address(str(child.attrs["href"]), home, folder)
            yield child


def _address(target: str, home: Path, folder: Path) -> str:
    """Where a link leads from the page: within it, to the web, or to a file; nowhere for any other scheme."""
    try:
        scheme = urlsplit(target).scheme
    except ValueError:
        return "#"
    if target.startswith("#") or scheme in _SCHEMES:
        return target
    return "#" if scheme else local(Path(relpath(home / target, folder)))


def local(path: Path) -> str:
    """A relative path as an address: with `./` before it, no part of it is taken for a scheme."""
    return path.as_posix() if path.parts[:1] == ("..",) else f"./{path.as_posix()}"


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    parts, since = [], 0
    for code in _CODE.finditer(markdown):
        parts += [change(markdown[since : code.start()]), code.group()]
        since = code.end()
    return "".join([*parts, change(markdown[since:])])
