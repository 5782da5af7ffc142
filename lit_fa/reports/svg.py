"""The declared figures as SVG inside a page: one image a panel, in the page's font and colours."""

import io
import re
from typing import TYPE_CHECKING, Any

from lit_fa.reports.figures import Line, colours_of, draw_panel, math_label, panels_of
from lit_fa.results.records import Collected
from lit_fa.spec.figure import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_SIZE = (3.6, 2.7)  # inches: text keeps its size on a phone
_BARS = (5.4, 3.0)
# Text stays text; the page names the font.
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 9, "figure.facecolor": "none", "axes.facecolor": "none"}
_STYLE |= {"axes.spines.top": False, "axes.spines.right": False}


def panel_images(collected: Collected, figure: Figure, key: str) -> list[tuple[str, str]]:
    """(title, SVG) of each panel, all with one y axis; empty if no record has the data.

    Args:
        collected: the records.
        figure: of the table.
        key: prefix of every id inside the images, so that several fit into one page.
    """
    import matplotlib

    panels = panels_of(collected, figure)
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": key}):
        canvases = [_canvas(collected, figure, lines) for lines in panels.values()]
        axes = [ax for canvas in canvases for ax in canvas.axes]
        for ax in axes:
            ax.set_ylim(min(a.get_ylim()[0] for a in axes), max(a.get_ylim()[1] for a in axes))
        images = [
            _svg(canvas, f"{key}-{i}", _description(figure, title, lines))
            for i, (canvas, (title, lines)) in enumerate(zip(canvases, panels.items(), strict=True))
        ]
    return list(zip(panels, images, strict=True))


def legend(collected: Collected, figure: Figure) -> list[tuple[str, str]]:
    """(label, CSS colour) of every line in any panel."""
    labels = {label for lines in panels_of(collected, figure).values() for label in lines}
    page = {label: f"var(--c{colour[1:]})" for label, colour in colours_of(collected, figure).items()}
    return [(label, colour) for label, colour in page.items() if label in labels]


def _canvas(collected: Collected, figure: Figure, lines: dict[str, Line]) -> "Canvas":
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=_BARS if figure.kind == "bars" else _SIZE, layout="constrained")
    ax = canvas.subplots()
    draw_panel(ax, collected, figure, "", lines)
    ax.set_ylabel(math_label(figure.ylabel or figure.y))
    return canvas


def _page_colours() -> dict[str, str]:
    """Matplotlib's colours to the page's: the variables --c0 to --c9, and the colour of text."""
    from matplotlib.colors import to_hex

    return {to_hex(f"C{i}"): f"var(--c{i})" for i in range(10)} | {"#000000": "currentColor"}


def _description(figure: Figure, title: str, lines: dict[str, Line]) -> str:
    """The image in words, for screen readers."""
    last = ", ".join(f"{label} {line[-1][1]:.4g}" for label, line in lines.items())
    over = f" over {figure.xlabel or figure.x}" if figure.kind != "bars" else ""
    named = ", ".join(part for part in (figure.title, title) if part)
    return f"{named}: {figure.ylabel or figure.y}{over}. Last values: {last}."


def _svg(canvas: "Canvas", key: str, description: str) -> str:
    """The image for a page: unique ids, no prolog, no metadata, no font and size of its own."""
    from markupsafe import escape
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    FigureCanvasSVG(canvas).print_svg(text, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\1{key}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    for colour, variable in _page_colours().items():
        svg = svg.replace(colour, variable)
    size = re.findall(r'viewBox="[^"]*"', svg)[0]
    body = re.sub(r"\s*\n\s*", "\n", svg[svg.index(">") + 1 :])
    return f'<svg {size} role="img" aria-label="{escape(description)}">{body}'.strip()
