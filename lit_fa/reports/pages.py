"""The written report: a folder with one HTML page a paper, one for all of them, and every table as text.

A page holds its style, its pictures and its few lines of script: it opens from disk, without a network. Beside it, in
a folder of the paper's name, lie `<table>-<scale>.md`, `.csv` and `.tex`.
"""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lit_fa.errors import UserError
from lit_fa.outputs import write_text
from lit_fa.reports.card_html import story
from lit_fa.reports.facts import commits, machines, wall_time
from lit_fa.reports.formats import comma_separated, latex, markdown
from lit_fa.reports.page_data import GLYPHS, Section, unique
from lit_fa.results.compare import Comparison, Kind
from lit_fa.results.records import Collected
from lit_fa.spec.expand import slug


def write_pages(shown: Sequence[tuple[Collected, Sequence[Comparison]]], folder: Path) -> list[Path]:
    """Writes everything into `folder` and returns the pages; `index.html` only where there are several papers."""
    sections = [Section(collected, compared, folder.resolve()) for collected, compared in shown]
    papers: dict[str, list[Section]] = {}
    for section in sections:
        papers.setdefault(section.collected.table.paper.key, []).append(section)
        _write_texts(section, folder / _file_name(section.collected.table.paper.key))
    views = [_paper(key, tables, folder.resolve()) for key, tables in papers.items()]
    templates = _templates()
    pages = [_written(folder / view["file"], templates.get_template("paper.html").render(view)) for view in views]
    if len(views) > 1:
        whole = {"papers": views, "facts": _totals(sections), "tally": _tally(sections)}
        pages.insert(0, _written(folder / "index.html", templates.get_template("index.html").render(whole)))
    return pages


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("lit_fa.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    templates.filters["data_link"] = lambda text, kind: f"data:{kind};charset=utf-8,{quote(text)}"
    templates.globals |= {"glyphs": GLYPHS, **_script(templates)}
    return templates


def _script(templates: Environment) -> dict[str, Markup]:
    """The page's own script, and a policy: a browser runs it, takes styles and pictures in the page, and no more."""
    source = Markup(templates.loader.get_source(templates, "page.js")[0])  # a file of this package
    digest = b64encode(sha256(source.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    return {"script": source, "policy": Markup(policy)}


def _paper(key: str, sections: list[Section], folder: Path) -> dict:
    """What the page of a paper shows: the card, its tables in their places, those without a place at the end."""
    title, pieces = _story(sections[0].collected.table.path.resolve().parent / "README.md", folder)
    by_name = {section.name: section for section in sections}
    placed = [(kind, by_name.pop(part, None) if kind == "table" else part) for kind, part in pieces]
    placed = [(kind, part) for kind, part in placed if part is not None]
    paper = sections[0].collected.table.paper
    return {
        "key": _file_name(key),
        "file": f"{_file_name(key)}.html",
        "title": title or paper.title or key,
        "papers": list(dict.fromkeys((s.collected.table.paper.title, s.collected.table.paper.arxiv) for s in sections)),
        "pieces": [*placed, *(("table", section) for section in by_name.values())],
        "sections": sections,
        "facts": _totals(sections),
        "tally": _tally(sections),
        "texts": {section.name: _texts(section) for section in sections},
    }


def _story(card: Path, folder: Path) -> tuple[str, list]:
    """What the card says; nothing of one that cannot be read, which the report has named."""
    try:
        return story(card, folder)
    except UserError:
        return "", []


def _totals(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Tables, runs, time, machines and commits of several tables together."""
    records = [record.data for section in sections for record in section.collected.ended]
    finished = sum(len(section.collected.all) for section in sections)
    wanted = sum(len(section.collected.runs) for section in sections)
    diverged = len(records) - finished
    return [
        ("tables", str(len(sections))),
        ("runs finished", f"{finished} of {wanted}" + (f", {diverged} diverged" if diverged else "")),
        ("wall time, all runs", wall_time(records)),
        ("hardware", "; ".join(machines(records)) or "–"),
        ("commits", ", ".join(commits(records)) or "–"),
    ]


def _tally(sections: Sequence[Section]) -> list[tuple[str, int, bool]]:
    """(kind of verdict, cells with it, whether all of them are of a reduced scale), kinds without a cell left out."""
    cells = [cell for section in sections for cell in section.cells]
    counted = [(kind, [cell for cell in cells if cell["kind"] == kind]) for kind in Kind]
    return [(kind, len(found), all(cell["reduced"] for cell in found)) for kind, found in counted if found]


def _texts(section: Section) -> dict[str, str]:
    """The table in every text form, by the ending of its file."""
    both = section.collected, section.comparisons
    return {"md": markdown(*both), "csv": comma_separated(*both), "tex": latex(*both)}


def _write_texts(section: Section, folder: Path) -> None:
    for ending, text in _texts(section).items():
        name = f"{_file_name(section.name)}-{section.collected.scale.name}.{ending}"
        _written(folder / name, text.rstrip("\n") + "\n")


def _written(path: Path, text: str) -> Path:
    """A link among old pages is replaced, for it might lead anywhere."""
    return write_text(path, text, "--write", follow=False)


def _file_name(name: str) -> str:
    """Of a paper's page or a table's texts; `index` is the page of all papers."""
    return unique(name, slug(name) if slug(name) != "index" else "index-of-paper")
