"""LaTeX formulas as MathML of known elements and attributes alone: nothing in it can run or load."""

import html
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markupsafe import escape

_ELEMENTS = frozenset(
    {
        "math", "maction", "menclose", "merror", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded",
        "mphantom", "mprescripts", "mroot", "mrow", "ms", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup",
        "mtable", "mtd", "mtext", "mtr", "munder", "munderover", "none",
    }
)  # fmt: skip
_ATTRIBUTES = frozenset(
    {
        "accent", "accentunder", "columnalign", "columnlines", "columnspacing", "columnspan", "depth", "dir",
        "display", "displaystyle", "fence", "form", "frame", "height", "largeop", "linethickness", "lspace",
        "mathbackground", "mathcolor", "mathsize", "mathvariant", "maxsize", "minsize", "movablelimits", "notation",
        "rowalign", "rowlines", "rowspacing", "rowspan", "rspace", "scriptlevel", "separator", "stretchy",
        "symmetric", "voffset", "width",
    }
)  # fmt: skip


def mathml(latex: str, *, block: bool) -> str | None:
    """The formula as an element of HTML; None where it cannot be read.

    Links, classes and styles of a formula are left out; `\\text{<b>}` shows what it says.
    """
    try:
        return _written(convert_to_element(latex, display="block" if block else "inline"))
    except Exception:  # the package raises a class of its own for every kind of mistake
        return None


def _written(element: Element) -> str:
    if element.tag not in _ELEMENTS:
        raise ValueError(element.tag)
    attributes = "".join(f' {name}="{_text(value)}"' for name, value in element.items() if name in _ATTRIBUTES)
    inside = _text(element.text) + "".join(_written(child) + _text(child.tail) for child in element)
    return f"<{element.tag}{attributes}>{inside}</{element.tag}>"


def _text(text: str | None) -> str:
    """The package writes symbols as character references, and leaves the rest as it was."""
    return str(escape(html.unescape(text or "")))
