"""A card as HTML, split at the markers of its tables; formulas become MathML."""

import re
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from mdit_py_plugins.dollarmath import dollarmath_plugin

from lit_fa.reports.card import read_card
from lit_fa.reports.formulas import mathml

_TABLE = re.compile(r"^[ \t]*<!-- table:([^\n]+):begin -->[ \t]*$.*?^[ \t]*<!-- table:\1:end -->[ \t]*$", re.S | re.M)
_SCHEMES = ("http", "https", "mailto")


def story(card: Path, folder: Path) -> tuple[str, list[tuple[str, Markup]]]:
    """The card's title, and its pieces in order: ("words", HTML) or ("table", name); empty if there is no card.

    Args:
        card: the README with the markers of its tables.
        folder: of the page; relative links are rewritten to start there. Images are left out.

    Raises:
        UserError: the card cannot be read.
    """
    content = read_card(card).replace("\r\n", "\n")
    title, since = "", 0
    pieces: list[tuple[str, str]] = []
    if heading := re.match(r"\s*# (.+)\n", content):
        title, since = heading.group(1).strip(), heading.end()
    for table in _TABLE.finditer(content):
        pieces += [("words", content[since : table.start()]), ("table", escape(table.group(1)))]
        since = table.end()
    pieces.append(("words", content[since:]))
    shown = [(kind, Markup(part) if kind == "table" else _html(part, card.parent, folder)) for kind, part in pieces]
    return title, [(kind, part) for kind, part in shown if part]


def _html(markdown: str, home: Path, folder: Path) -> Markup:
    """Markdown without raw HTML and images, with the links of `_address`."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.use(dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    for kind in ("math_inline", "math_inline_double", "math_block"):
        parser.add_render_rule(kind, _formula)
    tokens = parser.parse(markdown)
    for token in tokens:
        token.children = [child for child in token.children or () if child.type != "image"]
        for child in token.children:
            if "href" in child.attrs:
                child.attrs["href"] = _address(str(child.attrs["href"]), home, folder)
    html = parser.renderer.render(tokens, parser.options, {})
    html = html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
    return Markup(html.strip())


def _formula(_renderer: object, tokens: Sequence[Token], index: int, *_: object) -> str:
    """A formula as MathML, or its source if it cannot be parsed."""
    token, block = tokens[index], tokens[index].markup == "$$"
    math = mathml(token.content.strip(), block=block) or escape(f"{token.markup}{token.content}{token.markup}")
    html = f'<span class="formula">{math}</span>' if block else str(math)
    return f"<p>{html}</p>\n" if token.block else html


def _address(target: str, home: Path, folder: Path) -> str:
    """The target of a link in the page: an anchor, the web or a file; `#` for every other scheme."""
    try:
        scheme = urlsplit(target).scheme
    except ValueError:
        return "#"
    if target.startswith("#") or scheme in _SCHEMES:
        return target
    return "#" if scheme else local(Path(relpath(home / target, folder)))


def local(path: Path) -> str:
    """A relative path as an address; the `./` keeps a colon in a name from being read as a scheme."""
    return path.as_posix() if path.parts[:1] == ("..",) else f"./{path.as_posix()}"
