r"""Text of others, made harmless for where it goes: a line, a cell of Markdown, LaTeX or CSV.

Labels, notes and what records say of a machine come from files that anybody may have written. The last step before a
text is put together goes through here; for HTML that step is Jinja's own.
"""

import re
from typing import Any

from rich.markup import escape

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # where Markdown takes what follows for HTML
_ENTITY = re.compile(r"&(?=#?\w+;)")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for one
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"[": "{[}", "*": "{*}"}  # which a row's end would take for its own
    | {"<": "$<$", ">": "$>$", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "×": r"$\times$", "≈": r"$\approx$"}
)


def plain(text: str) -> str:
    r"""`text` in one line: what is no visible character becomes a space, at the ends nothing.

    >>> plain("a\nb\x1b[31m\ud800c ")
    'a b [31m c'
    """
    return _CONTROL.sub(" ", text).strip(" ") if _CONTROL.search(text) else text


def shown(text: str) -> str:
    r"""`text` in one line for a console, where brackets are no markup.

    >>> print(shown("[/b] [9]"))
    \[/b] [9]
    """
    return escape(plain(text))


def short(value: Any, most: int = 60) -> str:
    """A value as an error shows it, cut after `most` characters.

    >>> short("x" * 100, 10)
    "'xxxxxxxxx..."
    """
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # a whole number of more than 4300 digits, a list in itself
        shown = f"a large {type(value).__name__}"
    return plain(shown if len(shown) <= most else f"{shown[:most]}...")


def prose(text: str) -> str:
    r"""Markdown of an author that stays one line and brings no HTML and no link: a note, a source.

    >>> prose("a `b`\n<!-- end --> & <b>")
    'a `b` &lt;!-- end --> & &lt;b>'
    """
    return _TAG.sub("&lt;", plain(text)).replace("](", r"]\(")


def literal(text: str) -> str:
    r"""A label in Markdown, shown as it is written.

    >>> print(literal("a|b [c](d) `e` *f* <script> &lt;"))
    a\|b \[c\](d) \`e\` \*f\* &lt;script> &amp;lt;
    """
    text = _ENTITY.sub("&amp;", plain(text))
    text = re.sub(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)", lambda found: f"\\{found.group()}", text)
    return _TAG.sub("&lt;", text)


def code_span(text: str) -> str:
    r"""A code span of Markdown, whatever backticks are in the text.

    >>> print(code_span("a"), code_span("b`c"))
    `a` `` b`c ``
    """
    text = plain(text)
    ticks = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (ticks + 1)
    return f"{fence} {text} {fence}" if ticks else f"`{text}`"


def latex_text(text: str) -> str:
    """A text in LaTeX, shown as it is written."""
    return plain(text).translate(_LATEX)


def csv_value(value: Any) -> Any:
    """A value for a CSV: a text that a spreadsheet would take for a formula gets a quote before it; numbers stay.

    >>> [csv_value(value) for value in ("=1+1", "-0.5", "- none", -0.5, "FA")]
    ["'=1+1", '-0.5', "'- none", -0.5, 'FA']
    """
    if not isinstance(value, str):
        return value
    text = plain(value)
    if text.startswith(_FORMULA) and not _number(text):
        return f"'{text}"
    return text


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
