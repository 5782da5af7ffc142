"""The written report: a folder with one HTML page a paper, one for all of them, and every table as text.

A page holds its style, its pictures and its few lines of script: it opens from disk, without a network. Beside it, in
a folder of the paper's name, lie `<table>-<scale>.md`, `.csv` and `.tex`.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lit_fa.errors import UserError
from lit_fa.outputs import write_text
from lit_fa.reports.card_html import story
from lit_fa.reports.facts import commits, cpu_time, machines, wall_time
from lit_fa.reports.formats import comma_separated, latex, markdown
from lit_fa.reports.page_data import GLYPHS, section, unique
from lit_fa.reports.rows import rows as page_rows
from lit_fa.results.compare import Comparison
from lit_fa.results.records import Collected
from lit_fa.results.settled import LEADING, SETTLED, State, settled
from lit_fa.results.verdict import Kind
from lit_fa.spec.expand import slug
from lit_fa.spec.table import Table

_ORDER = [Kind.AGREES, Kind.DIFFERS, Kind.UNDECIDED, Kind.UNDECIDABLE, Kind.FAILED, Kind.OPEN, Kind.MISSING]
_LOADER = PackageLoader("lit_fa.reports")


def write_pages(
    compared: Sequence[tuple[Collected, Sequence[Comparison]]], folder: Path, columns: Sequence[str] = ()
) -> list[Path]:
    """Writes everything into `folder` and returns the pages; `index.html` only if there are several papers.

    Args:
        compared: every table with its comparisons.
        folder: of the pages.
        columns: names of `reports.columns` that the tables show; all for none.
    """
    sections = [section(collected, comparisons, folder.resolve(), columns) for collected, comparisons in compared]
    papers: dict[str, list[dict[str, Any]]] = {}
    for view in sections:
        view["texts"] = _texts(view, columns)
        key = view["collected"].table.paper.key
        papers.setdefault(key, []).append(view)
        _write_texts(view, folder / _file_name(key))
    views = [_paper(key, tables, folder.resolve()) for key, tables in papers.items()]
    environment = templates()
    pages = [_written(folder / view["file"], environment.get_template("paper.html").render(view)) for view in views]
    if len(views) > 1:
        index = _settled_first(views) | {"facts": _totals(sections), "tally": _tally(sections)}
        pages.insert(0, _written(folder / "index.html", environment.get_template("index.html").render(index)))
    return pages


def templates() -> Environment:
    """The templates of pages, with escaping of everything that is not marked safe."""
    environment = Environment(
        loader=_LOADER,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["data_link"] = lambda text, kind: f"data:{kind};charset=utf-8,{quote(text)}"
    environment.globals |= {"glyphs": GLYPHS, **page_script("page.js")}
    return environment


def page_script(*names: str) -> dict[str, Markup]:
    """A page's script, and a content security policy: only this script, and styles and images in the page.

    Args:
        names: of script files beside the templates.
    """
    environment = Environment(loader=_LOADER, autoescape=True)
    source = Markup("\n".join(_LOADER.get_source(environment, name)[0] for name in names))  # files of this package
    digest = b64encode(sha256(source.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    return {"script": source, "policy": Markup(policy)}


def _paper(key: str, sections: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The page of a paper: the card, its tables at their markers, and tables without a marker at the end."""
    title, pieces = _story(sections[0]["collected"].table.path.resolve().parent / "README.md", folder)
    by_name = {section["name"]: section for section in sections}
    placed: list[tuple[str, Any]] = [
        (kind, by_name.pop(part, None) if kind == "table" else part) for kind, part in pieces
    ]
    papers = [section["collected"].table.paper for section in sections]
    shown = [piece for piece in placed if piece[1] is not None]
    return {
        "key": _file_name(key),
        "file": f"{_file_name(key)}.html",
        "title": title or papers[0].title or key,
        "papers": list(dict.fromkeys((paper.title, paper.arxiv) for paper in papers)),
        "pieces": [*shown, *(("table", view) for view in _empty_last([*by_name.values()]))],
        "placed": [view["name"] for kind, view in shown if kind == "table"],
        "sections": _empty_last(sections),
        "facts": _totals(sections),
        "tally": _tally(sections),
    }


def _empty_last(sections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tables in their order, those without a run behind the others."""
    return sorted(sections, key=lambda section: not section["collected"].ended)


def _settled_first(views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The papers, those with more settled numbers first and those without a run last; the counts and these numbers.

    A number is settled at the paper's own scale, whichever scale the pages show.
    """
    found = {view["key"]: [settled(table) for table in _tables(view)] for view in views}
    counts = sum((one.counts for own in found.values() for one in own), Counter[State]())
    numbers = [
        (state, view, one.table, row, page_rows([row], one.table)[0])
        for view in views
        for one in found[view["key"]]
        for state, row in one.rows
        if state in SETTLED
    ]

    def order(view: dict[str, Any]) -> tuple[int, bool]:
        ended = any(section["collected"].ended for section in view["sections"])
        return -sum(one.counts[state] for one in found[view["key"]] for state in SETTLED), not ended

    return {
        "papers": sorted(views, key=order),
        "settled": sorted(numbers, key=lambda number: SETTLED.index(number[0])),
        "states": [(state, counts[state]) for state in LEADING if counts[state]],
        "declared": counts.total(),
    }


def _tables(view: dict[str, Any]) -> list[Table]:
    """The tables of a paper, each once, although its page may have several scales."""
    return [*{section["collected"].table.path: section["collected"].table for section in view["sections"]}.values()]


def _story(card: Path, folder: Path) -> tuple[str, list[tuple[str, Markup]]]:
    """The card; nothing if it cannot be read, which the report has already named."""
    try:
        return story(card, folder)
    except UserError:
        return "", []


def _totals(sections: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Tables, runs, time, machines and commits of several tables together."""
    tables = [section["collected"] for section in sections]
    records = [record.data for collected in tables for record in collected.ended]
    finished, expected = sum(len(c.all) for c in tables), sum(len(c.runs) for c in tables)
    diverged = len(records) - finished
    return [
        ("tables", str(len(sections))),
        ("runs finished", f"{finished} of {expected}" + (f", {diverged} diverged" if diverged else "")),
        ("wall time, all runs", wall_time(records)),
        *cpu_time(records),
        ("hardware", "; ".join(machines(records)) or "–"),
        ("commits", ", ".join(commits(records)) or "–"),
    ]


def _tally(sections: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """(kind of verdict, number of rows) for every kind that occurs."""
    counts = Counter(cell["kind"] for section in sections for cell in section["cells"])
    return [(kind, counts[kind]) for kind in sorted(Kind, key=_ORDER.index) if counts[kind]]


def _texts(section: dict[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """The table in every text format, by the ending of its file."""
    both = section["collected"], section["comparisons"]
    words = markdown(*both, columns=columns)
    return {"md": words, "csv": comma_separated(*both, columns), "tex": latex(*both, columns)}


def _write_texts(section: dict[str, Any], folder: Path) -> None:
    for ending, text in section["texts"].items():
        name = f"{_file_name(section['name'])}-{section['collected'].scale.label}.{ending}"
        _written(folder / name, text.rstrip("\n") + "\n")


def _written(path: Path, text: str) -> Path:
    """Writes a file; a symbolic link among old pages is replaced and not followed."""
    return write_text(path, text, "--write", follow=False)


def _file_name(name: str) -> str:
    """The file name of a paper's page or of a table's texts; `index` is the page of all papers."""
    return unique(name, slug(name) if slug(name) != "index" else "index-of-paper")
