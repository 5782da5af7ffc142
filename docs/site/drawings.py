"""Drawings of the concepts, as SVG: boxes in a row, and arrows between them."""

from collections.abc import Sequence
from pathlib import Path

from lit_fa.plot_style import BLUE, GREY, VERMILLION

WIDTH, HEIGHT, GAP = 118, 44, 34
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" font-family="sans-serif" font-size="13">
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">
<path d="M0 0 L8 4 L0 8 z" fill="context-stroke"/></marker></defs>
<rect width="{w}" height="{h}" fill="white"/>"""


def left(k: int) -> float:
    """The left side of box k."""
    return 12 + k * (WIDTH + GAP)


def box(k: int, top: float, text: str, colour: str = GREY) -> str:
    """Box k of a row, with one or two lines of text."""
    lines = text.split("\n")
    middle, start = left(k) + WIDTH / 2, top + HEIGHT / 2 + 4 - 8 * (len(lines) - 1)
    spans = "".join(f'<tspan x="{middle}" y="{start + 16 * i}">{line}</tspan>' for i, line in enumerate(lines))
    frame = f'<rect x="{left(k)}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="none" stroke="{colour}"/>'
    return f'{frame}<text text-anchor="middle">{spans}</text>'


def arrow(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    """A line through points, with a tip."""
    path = " ".join(f"{x},{y}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash} marker-end="url(#tip)"/>'


def words(x: float, y: float, text: str, colour: str = "#333333") -> str:
    """A line of text."""
    return f'<text x="{x}" y="{y}" fill="{colour}">{text}</text>'


def row(texts: Sequence[str], top: float, colour: str = GREY) -> list[str]:
    """Boxes, and forward arrows between them."""
    boxes = [box(k, top, text, colour) for k, text in enumerate(texts)]
    y = top + HEIGHT / 2
    return [*boxes, *(arrow([(left(k) - GAP + 2, y), (left(k) - 2, y)], BLUE) for k in range(1, len(texts)))]


def svg(parts: Sequence[str], boxes: int, height: float) -> str:
    """The whole drawing."""
    return "\n".join([HEAD.format(w=left(boxes) - GAP + 12, h=height), *parts, "</svg>\n"])


def backward() -> str:
    """Backpropagation, feedback alignment and direct feedback side by side."""
    texts, parts = ["input", "block 1", "block 2", "head", "loss"], []
    for title, top in (("backpropagation", 30), ("feedback alignment", 150), ("direct feedback alignment", 270)):
        parts += [words(12, top - 10, title), *row(texts, top)]
        low = top + HEIGHT + 22
        if title.startswith("direct"):
            start = left(4) + WIDTH / 2
            for k in (1, 2, 3):
                end = left(k) + WIDTH / 2
                parts += [
                    arrow([(start, top + HEIGHT + 2), (start, low), (end, low), (end, top + HEIGHT + 4)], VERMILLION)
                ]
            parts += [
                words(left(1) + 20, low + 18, "F₁ e", VERMILLION),
                words(left(2) + 20, low + 18, "F₂ e", VERMILLION),
            ]
            continue
        for k in (4, 3, 2):
            a, b = left(k) + WIDTH / 2 - 8, left(k - 1) + WIDTH / 2 + 8
            parts += [arrow([(a, top + HEIGHT + 2), (a, low), (b, low), (b, top + HEIGHT + 4)], VERMILLION)]
        names = ["W₂ᵀ δ", "W₃ᵀ e"] if title.startswith("back") else ["B₂ δ", "B₃ e"]
        parts += [
            words(left(k) + WIDTH - 10, low + 18, name, VERMILLION) for k, name in zip((1, 2), names, strict=True)
        ]
    return svg(parts, 5, 372)


def step() -> str:
    """What runs when in a training step."""
    texts = [
        "surrogate()\nforward pass",
        "backward()\nautograd",
        "edit_\ngradients()",
        "clip and\noptimiser",
        "after_step()\nfeedback",
    ]
    owners = ["the rule", "torch", "the rule", "torch", "the rule"]
    low = 20 + HEIGHT + 22
    return svg([*row(texts, 20), *(words(left(k), low, owner) for k, owner in enumerate(owners))], 5, 104)


def table() -> str:
    """From a table to a verdict."""
    texts = [
        "table\nYAML file",
        "cell\nrow and column",
        "run\none seed",
        "record\none JSON file",
        "verdict\nagrees, differs, …",
    ]
    return svg(row(texts, 16), 5, 80)


def write(folder: Path) -> None:
    """Write all drawings."""
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (backward, step, table):
        (folder / f"{draw.__name__}.svg").write_text(draw(), encoding="utf-8")
