"""The documentation site: every link leads somewhere, every block of Python runs, and Sphinx has no warning."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.site.pages import CODE, DOCS, ROOT, assemble, sources
from docs.site.rules import classes
from lit_fa import rules

PAGES = [page for page in sources() if page.is_relative_to(DOCS) and "tutorials" not in page.parts]
PAGES += [ROOT / "README.md"]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{k}")
    for page in PAGES
    for k, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(?:#[^)\s]*)?\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    assemble(folder, gallery=False)  # tests/docs/test_gallery.py draws it
    return folder


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "page", "exec"), {"__name__": "__main__"})


def test_every_link_leads_to_a_file_of_the_site(site):
    dead = []
    for page in site.rglob("*.md"):
        for address in LINK.findall("".join(CODE.split(page.read_text(encoding="utf-8"))[::2])):
            target = site / address[1:] if address.startswith("/") else page.parent / address
            dead += (
                [] if target.exists() or address.startswith("/gallery/") else [f"{page.relative_to(site)}: {address}"]
            )
    assert dead == []


def test_every_page_is_in_a_table_of_contents(site):
    text = "\n".join(page.read_text(encoding="utf-8") for page in site.rglob("*.md"))
    listed = {
        name.strip() for block in re.findall(r"```\{toctree\}(.*?)```", text, re.DOTALL) for name in block.split()
    }
    pages = {page.relative_to(site).with_suffix("").as_posix() for page in site.rglob("*.md")} - {"index"}
    lost = [page for page in sorted(pages) if not {page, Path(page).name, f"{Path(page).parent}/*"} & listed]
    assert lost == []


def test_every_public_rule_has_a_page(site):
    assert {kind.__name__ for kind in classes()} == {page.stem for page in (site / "rules").glob("*.md")} - {"index"}
    assert rules.PEPITA in classes()


def test_a_link_that_leads_nowhere_is_an_error(tmp_path):
    from docs.site.pages import relinked

    with pytest.raises(FileNotFoundError, match="nowhere"):
        relinked("[lost](lost.md)", DOCS / "start.md", "start", sources(), tmp_path)


@pytest.mark.slow
def test_sphinx_has_no_warning_and_every_tutorial_runs(tmp_path):
    if importlib.util.find_spec("myst_nb") is None:
        pytest.skip("pip install 'lit-fa[docs]'")
    command = [sys.executable, "-m", "docs.site", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "html/tutorials/federation.html").is_file()
