"""The declared figures as SVG inside a page: one image a panel, in the page's font and colours."""

import io
import re
from typing import TYPE_CHECKING

from lit_fa import heat_maps, plot_style
from lit_fa.reports.figures import panels_of, split_panels
from lit_fa.reports.panels import Line, draw_panel, math_label, places_of
from lit_fa.results.records import Collected
from lit_fa.spec.figure import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_SIZE = (3.6, 2.7)  # inches: text keeps its size on a phone
_BARS = (5.4, 3.0)
# Text stays text; the page names the font.
_STYLE = {"svg_fonttype": "none", "figure_facecolor": "none", "axes_facecolor": "none"}
_SHAPES = dict(
    zip(
        plot_style.MARKERS,
        (
            "M15 6a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
            "M15 3h6v6h-6z",
            "M18 2l4 4l-4 4l-4-4z",
            "M18 2l4 7h-8z",
            "M18 10l4-7h-8z",
            "M17 2h2v3h3v2h-3v3h-2v-3h-3v-2h3z",
            "M15 2l3 3l3-3l1 1l-3 3l3 3l-1 1l-3-3l-3 3l-1-1l3-3l-3-3z",
        ),
        strict=True,
    )
)


def panel_images(collected: Collected, figure: Figure, key: str) -> list[tuple[str, str]]:
    """(title, SVG) of each panel, all with one y axis; empty if no record has the data.

    Args:
        collected: the records.
        figure: of the table.
        key: prefix of every id inside the images, so that several fit into one page.
    """
    panels = split_panels(collected, figure)
    with plot_style.style(**_STYLE, svg_hashsalt=key):
        canvases = [_canvas(collected, figure, title, lines) for title, lines in panels.items()]
        axes = [ax for canvas in canvases for ax in canvas.axes]
        if figure.kind == "depth":
            heat_maps.same_colours(axes)
        for ax in axes if figure.kind != "depth" else ():
            ax.set_ylim(min(a.get_ylim()[0] for a in axes), max(a.get_ylim()[1] for a in axes))
        images = [
            inline(canvas, f"{key}-{i}", _description(figure, title, lines))
            for i, (canvas, (title, lines)) in enumerate(zip(canvases, panels.items(), strict=True))
        ]
    return list(zip(panels, images, strict=True))


def legend(collected: Collected, figure: Figure) -> list[tuple[str, str]]:
    """(label, SVG of its line and marker, or of its bar) of every line in any panel."""
    if figure.kind == "depth":
        return []
    labels = {label for lines in panels_of(collected, figure).values() for label in lines}
    places = places_of(collected, figure).items()
    return [(label, _sample(figure, place)) for label, place in places if label in labels]


def marker_sample(marker: str, colour: str, *, filled: bool = True) -> str:
    """A marker alone, for the legend of a page; `colour` is one of CSS."""
    look = f'fill="{colour}"' if filled else f'fill="none" stroke="{colour}" stroke-width="1.4"'
    return f'<svg class="swatch" viewBox="0 0 36 12" aria-hidden="true"><path d="{_SHAPES[marker]}" {look}/></svg>'


def _sample(figure: Figure, place: int) -> str:
    """A short piece of a line, as in the panels."""
    look, colour = plot_style.line_style(place), f"var(--c{place % plot_style.MOST_LINES})"
    if figure.kind == "bars":
        body = f'<rect width="36" height="12" fill="{colour}"/>'
    else:
        dashes = "" if look["linestyle"] == "solid" else " ".join(f"{1.4 * part:g}" for part in look["linestyle"][1])
        line = f'<path d="M0 6H36" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dashes or "none"}"/>'
        mark = f'<path d="{_SHAPES[look["marker"]]}" fill="{colour}"/>'
        body = (line if figure.kind != "dots" else "") + mark
    return f'<svg class="swatch" viewBox="0 0 36 12" aria-hidden="true">{body}</svg>'


def _canvas(collected: Collected, figure: Figure, title: str, lines: dict[str, Line]) -> "Canvas":
    wide = figure.kind in ("bars", "dots", "depth")
    canvas, (ax,) = plot_style.canvas(1, _BARS if wide else _SIZE)
    draw_panel(ax, collected, figure, title if figure.kind == "dots" else "", lines)
    if figure.kind not in ("dots", "depth"):
        ax.set_ylabel(math_label(figure.ylabel or figure.y))
    return canvas


def page_colours() -> dict[str, str]:
    """The colours of the style to the page's variables, and black to the colour of text."""
    own = {colour.lower(): f"var(--c{i})" for i, colour in enumerate(plot_style.COLOURS)}
    return own | {plot_style.BLACK: "currentColor", plot_style.GREY: "var(--soft)"}


def _description(figure: Figure, title: str, lines: dict[str, Line]) -> str:
    """The image in words, for screen readers."""
    if figure.kind == "dots":
        values = "; ".join(
            f"{label} {', '.join(f'{mean:.4g}' for _, mean, _ in line)}" for label, line in lines.items()
        )
        return f"{figure.title or title}: {title} of each row, from the top. {values}."
    if figure.kind == "depth":
        ends = [line[-1][1] for line in lines.values()]
        what = f"{figure.ylabel or figure.y} of {len(lines)} layers over {figure.xlabel or figure.x}"
        named = ", ".join(part for part in (figure.title, title) if part)
        return f"{named}: {what}. Last values: {min(ends):.4g} to {max(ends):.4g}."
    last = ", ".join(f"{label} {line[-1][1]:.4g}" for label, line in lines.items())
    over = f" over {figure.xlabel or figure.x}" if figure.kind != "bars" else ""
    named = ", ".join(part for part in (figure.title, title) if part)
    return f"{named}: {figure.ylabel or figure.y}{over}. Last values: {last}."


def inline(canvas: "Canvas", key: str, description: str) -> str:
    """A figure as an image for a page: unique ids, no prolog, no metadata, no font and size of its own.

    Args:
        canvas: drawn with `svg.fonttype: none`.
        key: prefix of the ids.
        description: for screen readers.
    """
    from markupsafe import escape
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    FigureCanvasSVG(canvas).print_svg(text, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\1{key}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    for colour, variable in page_colours().items():
        svg = svg.replace(colour, variable)
    # a hundredth of a point is finer than any screen; texts keep their digits
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda place: re.sub(r"(\.\d\d)\d+", r"\1", place[0]), svg)
    size = re.findall(r'viewBox="[^"]*"', svg)[0]
    body = re.sub(r"\s*\n\s*", "\n", svg[svg.index(">") + 1 :])
    return f'<svg {size} role="img" aria-label="{escape(description)}">{body}'.strip()
