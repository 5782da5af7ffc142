"""A Sphinx extension: formulas as MathML, which needs no script, and docstrings with Markdown in them."""

import inspect
import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

PIECE = re.compile(r"``.+?``|`[^`\n]+`|(?<!\\)\$[^$]+\$", re.DOTALL)
MARK = re.compile(r"(?<=\S)\*|\*(?=\S)|\||(?<=\w)_(?=\W|$)")


def as_rst(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the Markdown of a docstring (formulas and code in a line) into reStructuredText, in place."""
    text, end, parts = "\n".join(lines), 0, []
    for found in PIECE.finditer(text):
        parts += [escaped(text[end : found.start()]), piece(found, text)]
        end = found.end()
    lines[:] = "".join([*parts, escaped(text[end:])]).split("\n")


def escaped(text: str) -> str:
    """Prose, without characters that mean something to reStructuredText; doctests stay."""
    return "\n".join(line if ">>>" in line else MARK.sub(r"\\\g<0>", line) for line in text.split("\n"))


def piece(found: re.Match[str], text: str) -> str:
    """Code or a formula, separated from letters that touch it."""
    own = found.group(0)
    inner = own.strip("`$")
    made = f":math:`{' '.join(inner.split())}`" if own[0] == "$" else f"``{inner}``"
    before, after = text[: found.start()][-1:], text[found.end() :][:1]
    return ("\\ " if before.isalnum() else "") + made + ("\\ " if after.isalnum() else "")


def constructor(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Of a class, the arguments of its constructor, also where a base class has a `__new__` of its own."""
    if what != "class" or "__init__" not in vars(obj):
        return None
    own = inspect.signature(obj.__init__)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in list(own.parameters.values())[1:]]
    return str(own.replace(parameters=plain, return_annotation=inspect.Signature.empty)), ""


def inline(translator: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """Write a formula in a line of its own."""
    translator.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.connect("autodoc-process-docstring", as_rst, priority=400)
    app.connect("autodoc-process-signature", constructor)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
