"""Which file becomes which page of the site, and links between them."""

import os
import re
import shutil
from pathlib import Path

from docs.site import drawings
from docs.site.gallery import write as draw_gallery
from docs.site.reference import reference_pages
from docs.site.rules import rule_pages
from docs.site.schema import schema_page
from lit_fa.reports.listing import find_tables
from lit_fa.reports.published import by_table
from lit_fa.results.settled import settled as count
from lit_fa.spec.table import load_table

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
SETTLED = "the runs.\n"
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
MADE = ("rules/", "reference/", "/drawings/", "/gallery/")  # pages and pictures that the site makes itself
MEDIA = (".png", ".svg", ".jpg")


def sources() -> dict[Path, str]:
    """File of the repository to its page, a path without ending below the site's root."""
    pages = {p: p.relative_to(DOCS).with_suffix("").as_posix() for p in sorted(DOCS.rglob("*.md"))}
    pages |= {card: f"papers/{card.parent.name}" for card in sorted((ROOT / "paper_configs").glob("*/README.md"))}
    pages |= {
        ROOT / f"{name}.md": name.lower() for name in ("SECURITY", "CHANGELOG", "CONTRIBUTING", "CODE_OF_CONDUCT")
    }
    return pages


def assemble(target: Path, *, gallery: bool = True) -> None:
    """Write the sources of all pages to a folder that Sphinx reads.

    Args:
        target: the folder.
        gallery: draw the pictures of the gallery, which takes half a minute.
    """
    pages = sources()
    for file, page in pages.items():
        write(target / f"{page}.md", relinked(file.read_text(encoding="utf-8"), file, page, pages, target))
    home = target / "index.md"
    home.write_text(home.read_text(encoding="utf-8").replace(SETTLED, SETTLED + settled(pages)), encoding="utf-8")
    for page, text in {**rule_pages(), **reference_pages(), **schema_page()}.items():
        write(target / page, text)
    shutil.copy(DOCS / "conf.py", target / "conf.py")
    shutil.copytree(DOCS / "static", target / "static", dirs_exist_ok=True)
    drawings.write(target / "drawings")
    if gallery:
        draw_gallery(target / "gallery")


def settled(pages: dict[Path, str]) -> str:
    """The count of settled numbers by paper, from the README, which a test compares with the records, and by table."""
    readme = ROOT / "README.md"
    block = readme.read_text(encoding="utf-8").split("<!-- table:published:begin -->")[1]
    block = block.split("<!-- table:published:end -->")[0]
    counts = [counted for file in find_tables(ROOT / "paper_configs") if (counted := count(load_table(file))).declared]
    text = f"\n{block}\n### By table\n\n{by_table(counts, readme)}\n"
    return relinked(text, readme, "index", pages, ROOT / "build")


def write(file: Path, text: str) -> None:
    """Write one source, with its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def relinked(text: str, file: Path, page: str, pages: dict[Path, str], target: Path) -> str:
    """The text with its relative links pointing to pages of the site.

    Pictures are copied beside the page. A link to a file that is not on the site becomes the name of that file.
    """

    def replaced(link: re.Match[str]) -> str:
        picture, words, address = link.groups()
        name, _, anchor = address.partition("#")
        if "://" in address or not name or name.startswith(MADE):  # made here
            return link.group(0)
        linked = Path(os.path.normpath(file.parent / name))
        if picture or linked.suffix in MEDIA:
            copy = target / "media" / linked.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(linked, copy)
            return f"{picture}[{words}](/media/{linked.relative_to(ROOT)})"
        if linked in pages:
            relative = os.path.relpath(pages[linked], Path(page).parent)
            return f"[{words}]({relative}.md{'#' + anchor if anchor else ''})"
        if not linked.exists():
            raise FileNotFoundError(f"{file}: the link to {address} leads nowhere")
        return (
            f"`{linked.relative_to(ROOT)}`"
            if words in (name, linked.name)
            else f"{words} (`{linked.relative_to(ROOT)}`)"
        )

    parts = CODE.split(text)  # text and code in turns
    return "".join(part if k % 2 else LINK.sub(replaced, part) for k, part in enumerate(parts))
