"""LaTeX formulas as MathML. Only listed elements and attributes are written: nothing can run or load."""

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
    """The formula as MathML; None if it cannot be parsed.

    Links, classes and styles are dropped; `\\text{<b>}` is shown literally.
    """
    try:
        return _element(convert_to_element(latex, display="block" if block else "inline"))
    except Exception:  # the package has a class for every kind of error
        return None


def _element(element: Element) -> str:
    if element.tag not in _ELEMENTS:
        raise ValueError(element.tag)
    attributes = "".join(f' {name}="{_text(value)}"' for name, value in element.items() if name in _ATTRIBUTES)
    inside = _text(element.text) + "".join(_element(child) + _text(child.tail) for child in element)
    return f"<{element.tag}{attributes}>{inside}</{element.tag}>"


def _text(text: str | None) -> str:
    """The package writes symbols as character references and does not escape the rest."""
    return str(escape(html.unescape(text or "")))
