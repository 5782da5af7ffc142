r"""Escapes text of unknown origin for a line, for Markdown, LaTeX or CSV.

Labels, notes and the description of a machine in a record come from files that anybody may have written. They are
escaped by these functions when a text is composed; for HTML, Jinja does this.
"""

import re
from typing import Any

from rich.markup import escape

_CONTROL = re.compile(  # and what has no width, or turns the direction of the text
    r"[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]+"
)
_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # Markdown reads it as the start of HTML
_ENTITY = re.compile(r"&(?=#?\w+;)")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet reads them as the start of a formula
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"[": "{[}", "*": "{*}"}  # after the end of a row they would be its options
    | {"<": "$<$", ">": "$>$", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "×": r"$\times$", "≈": r"$\approx$"}
)


def plain(text: str) -> str:
    r"""`text` in one line: control characters are replaced by a space, and removed at both ends.

    >>> plain("a\nb\x1b[31m\ud800c ")
    'a b [31m c'
    """
    return _CONTROL.sub(" ", text).strip(" ") if _CONTROL.search(text) else text


def shown(text: str) -> str:
    r"""`text` in one line for rich's console, with brackets escaped.

    >>> print(shown("[/b] [9]"))
    \[/b] [9]
    """
    return escape(plain(text))


def short(value: Any, most: int = 60) -> str:
    """The repr of a value for an error message, at most `most` characters long.

    >>> short("x" * 100, 10)
    "'xxxxxxxxx..."
    """
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits, a list that contains itself
        shown = f"a large {type(value).__name__}"
    return plain(shown if len(shown) <= most else f"{shown[:most]}...")


def prose(text: str) -> str:
    r"""Markdown of an author in one line, without HTML and links: a note, a source.

    >>> prose("a `b`\n<!-- end --> & <b>")
    'a `b` &lt;!-- end --> & &lt;b>'
    """
    return _TAG.sub("&lt;", plain(text)).replace("](", r"]\(")


def literal(text: str) -> str:
    r"""A label escaped for Markdown, so that it is shown literally.

    >>> print(literal("a|b [c](d) `e` *f* <script> &lt;"))
    a\|b \[c\](d) \`e\` \*f\* &lt;script> &amp;lt;
    """
    text = _ENTITY.sub("&amp;", plain(text))
    text = re.sub(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)", lambda match: f"\\{match.group()}", text)
    return _TAG.sub("&lt;", text)


def code_span(text: str) -> str:
    r"""A Markdown code span of a text that may contain backticks.

    >>> print(code_span("a"), code_span("b`c"))
    `a` `` b`c ``
    """
    text = plain(text)
    ticks = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (ticks + 1)
    return f"{fence} {text} {fence}" if ticks else f"`{text}`"


def latex_text(text: str) -> str:
    """A text escaped for LaTeX, so that it is shown literally."""
    return plain(text).translate(_LATEX)


def csv_value(value: Any) -> Any:
    """A value for a CSV: a text that a spreadsheet would read as a formula gets a leading quote; numbers do not.

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
