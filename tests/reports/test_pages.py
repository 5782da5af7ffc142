"""The written report: complete, linked, escaped, the same every time, and without torch, network or script."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from lit_fa.commands.table import main
from lit_fa.errors import UserError
from lit_fa.reports.card import markers
from lit_fa.reports.card_html import story
from lit_fa.reports.listing import find_tables
from lit_fa.reports.pages import write_pages
from lit_fa.results.compare import compare
from lit_fa.results.records import collect
from lit_fa.spec.command import read_only, run_command
from lit_fa.spec.table import load_table
from tests.reports.page_parser import Page

ROOT = Path(__file__).parents[2]
FIGURES = [
    {"file": "law.png", "y": "conserve/normalised", "panels": "column", "hline": {"value": 1.0, "label": "theory"}},
    {"file": "b.png", "title": "Bars & co", "kind": "bars", "y": "test/loss", "x": "row", "lines": "column"},
]
HOSTILE = [
    "<script>alert(1)</script>",
    'it\'s "quoted" & $5_{x}^2 ~\\',
    "a, b = c, decay 0.0",
    "[9] %, a | 2 × 3 ± 1, b = c",
    "-",
]


@pytest.fixture
def hostile(declared, save, fill) -> Path:
    """A table whose labels mean something to HTML, LaTeX, CSV, Markdown or a shell, with records at scale full."""
    labels = [(row, column) for row in HOSTILE for column in ("w, 32", "")]
    more = {"published": {"value": 91, "unit": "%"}}
    declared["cells"] = [{"row": r, "column": c, "set": {"a": [r, c]}, "note": r, **more} for r, c in labels]
    declared["also"] = [{"name": "test/loss", "unit": "<nats>"}]
    declared["figures"] = FIGURES
    path = save(declared)
    fill(path, "full")
    return path


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    """The pages of every committed table."""
    return pages_of(tmp_path_factory.mktemp("suite"))


def pages_of(folder: Path, *papers: str) -> Path:
    """The pages of the committed tables of some papers (all); no card and no figure of the project is touched."""
    found = [path for path in find_tables(ROOT / "paper_configs") if not papers or path.parent.name in papers]
    tables = [load_table(path) for path in found]
    collected = [collect(t, t.scale(None), t.path.parent / "results" / t.name / t.scale(None).name) for t in tables]
    write_pages([(found, compare(found)) for found in collected], folder)
    return folder


def written(path: Path, *arguments: str, scale: str = "full") -> Page:
    folder = path.parent / "pages"
    assert main(["report", str(path), "--scale", scale, "--write", str(folder), *arguments]) == 0
    return Page((folder / "conservation.html").read_text())


def test_a_page_is_well_formed_and_every_link_inside_it_has_its_place(hostile):
    page = written(hostile)
    assert len(set(page.ids)) == len(page.ids)
    assert {href[1:] for href, *_ in page.links if href.startswith("#")} <= {*page.ids}


def test_every_number_links_to_the_records_that_it_was_made_from(hostile):
    page = written(hostile)
    numbers = [(href, text) for href, text, held in page.links if "number" in held and "phone" not in held]
    # mean, interval, difference and the further metric of ten cells
    assert len(numbers) == 40
    for href, _ in numbers:
        records = [a["href"] for tag, a in page.inside[href[1:]] if tag == "a"]
        assert len(records) == 3
        for seed, record in enumerate(records):
            data = json.loads((hostile.parent / "pages" / unquote(record)).read_text())
            assert data["seed"] == seed
            assert f"record {data['id']}" in page.text


def test_a_page_loads_nothing(hostile):
    page = written(hostile)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert attributes.get("src", "data:").startswith("data:")
        assert tag == "a" or not attributes.get("href", "#").startswith(("http", "//"))
    text = (hostile.parent / "pages" / "conservation.html").read_text()
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttp", text)


def test_what_a_page_prints_as_a_command_runs_that_cell_or_seed_and_nothing_else(hostile, capfd):
    page = written(hostile)
    whole, *others = [shlex.split(line) for line in page.commands]
    assert whole == ["lit-fa", "table", "run", "table1.yaml", "--scale", "full"]
    assert len(others) == 10 * (1 + 3)
    shutil.rmtree(hostile.parent / "results")
    for words, runs in ((others[0], 3), (others[1], 1), (others[20], 3), (others[-1], 1)):
        capfd.readouterr()
        assert main(["run", str(hostile), *words[4:], "--dry-run"]) == 0
        assert capfd.readouterr().out.count("would run") == runs
    named = {words[words.index("--only") + 1] for words in others}
    assert len(named) == 10


@pytest.mark.parametrize("path", find_tables(ROOT / "paper_configs"), ids=lambda path: path.stem)
def test_every_cell_of_a_paper_can_be_named_on_the_command_line(path):
    table = load_table(path)
    for cell in table.cells:
        words = shlex.split(run_command(table, table.scale(None), cell))
        chosen = read_only([words[words.index("--only") + 1]])
        assert [c.id for c in table.cells if all(getattr(c, a) in kept for a, kept in chosen.items())] == [cell.id]


def test_a_label_that_a_command_cannot_name_is_refused(declared, save):
    declared["cells"][0]["row"] = "FA,row=BP"
    table = load_table(save(declared))
    with pytest.raises(UserError, match="rename its row or column"):
        run_command(table, table.scale("full"), table.cells[0])


def test_a_number_of_a_reduced_scale_is_marked_wherever_its_verdict_stands(declared, save, fill):
    path = save(declared)
    fill(path, "cpu")
    page = written(path, scale="cpu")
    assert "cpu scale: 10 of the paper's 50 epochs" in page.text
    assert page.text.count("– not the paper's protocol") == 2
    assert "2\nwithout a verdict" in page.text  # the tally: FA, and BP without a published number


def test_a_half_written_record_is_named_and_the_rest_is_shown(declared, save, fill):
    path = save(declared)
    half, *_, odd = fill(path, "full")
    half.write_text(half.read_text()[:100])
    odd.write_text(odd.read_text().replace('"wall_time_s": 2.0', '"wall_time_s": "2 s"'))
    page = written(path)
    assert f"{half.name}: half-written or not JSON; it will be run again" in page.text
    assert f"{odd.name}: wall_time_s cannot be read; it will be run again" in page.text
    assert "2 of 3 seeds" in page.text
    assert "4 of 6 runs" in page.text


def test_what_was_not_finite_is_nan_in_the_table_and_a_gap_in_its_pictures(declared, save, fill):
    declared["figures"] = FIGURES[:1]
    path = save(declared)
    broken = fill(path, "full")[0]
    data = json.loads(broken.read_text())
    data["metrics"] = dict.fromkeys(data["metrics"])
    data["curves"] = {key: [[x, y, None] for x, y, _ in curve[:1]] + curve[1:] for key, curve in data["curves"].items()}
    broken.write_text(json.dumps(data))
    page = written(path)
    assert "not finite in 1 of 3 runs" in page.text
    assert "Left out of the table" not in page.text
    html = (path.parent / "pages" / "conservation.html").read_text()
    assert 'class="curve"' in html
    assert not re.search(r'(points|cx|d)="[^"]*nan', html)


def test_a_table_without_records_says_what_to_run(declared, save):
    page = written(save(declared))
    assert "No run has been made at this scale: 2 cells, 6 runs to do." in page.text
    assert page.commands == ["lit-fa table run table1.yaml --scale full"]


def test_a_page_is_the_card_with_its_tables_in_their_places(declared, save, fill, tmp_path):
    begin, end = markers("table1")
    (tmp_path / "README.md").write_text(f"# The card\n\nBefore *it*.\n\n{begin}\nold\n{end}\n\n## After\n")
    declared["figures"] = FIGURES[:1]
    path = save(declared)
    fill(path, "full")
    page = written(path)
    places = [page.text.index(part) for part in ("The card", "Before it.", "full scale", "128; the paper", "After")]
    assert places == sorted(places)
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert "old" not in page.text.split()


def test_the_words_of_a_card_keep_their_formulas_code_and_links(tmp_path):
    card = tmp_path / "paper" / "README.md"
    card.parent.mkdir()
    card.write_text("# T\n\n$$W_1$$\n\n`$x$` costs $5 or $6; $\\eta_t$ [that](notes.md) <b>x</b> ![i](i.png)\n")
    title, [(kind, html)] = story(card, tmp_path / "pages")
    assert (title, kind) == ("T", "words")
    assert html.count("<math") == 2
    assert "<code>$x$</code> costs $5 or $6;" in html
    assert '<a href="../paper/notes.md">that</a> &lt;b&gt;x&lt;/b&gt;' in html
    assert "<img" not in html
    assert story(tmp_path / "none.md", tmp_path) == ("", [])


def test_the_partition_of_a_federated_run_is_drawn(declared, save, fill):
    path = save(declared)
    fill(path, "full", partition=[[3, 0, 1], [0, 4, 4]])
    page = written(path)
    (drawn,) = [a for tag, a in page.elements if a.get("class") == "partition"]  # both cells have the same
    assert drawn["alt"] == "2 clients of 4 to 8 samples in 3 classes"
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(drawn["src"].split(",")[1]))))
    assert pixels[..., 3].tolist() == [[191, 0, 63], [0, 255, 255]]
    for odd in ([[1], [1, 2]], [[0]], "many", [[-1, 2]], [["x"]]):
        fill(path, "full", partition=odd)
        assert not [a for _, a in written(path).elements if a.get("class") == "partition"]


def test_figures_speak_for_those_who_cannot_see_them(hostile):
    page = written(hostile)
    said = [a["aria-label"] for tag, a in page.elements if tag == "svg" and a.get("role") == "img"]
    assert sum("Last values: " in label for label in said) == 3  # two panels of curves, one of bars
    assert "runs 90, 91, 92; 95 % ± 2.5; published 91" in said
    for tag, attributes in page.elements:
        assert tag != "th" or attributes.get("scope") in ("row", "col")


def test_latex_is_balanced_and_has_one_field_for_every_column(hostile):
    written(hostile)
    lines = (hostile.parent / "pages/conservation/table1-full.tex").read_text().splitlines()
    columns = len(re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[0]).group(1))
    rows = [line for line in lines if line.endswith(r" \\")]
    assert len(rows) == 1 + 10
    for row in rows:
        bare = re.sub(r"\\(?:[&%$#_{}]|text\w+\{\}|\\$|[a-z]+)|\{[\[*]\}", "", row)
        assert bare.count("&") == columns - 1
        assert bare.count("$") % 2 == 0
        assert not set("#%_^~{}[*\\") & set(bare)
        assert bare.isascii()


def test_the_same_records_give_the_same_pages(hostile):
    folder = hostile.parent / "pages"
    written(hostile)
    first = {path: path.read_bytes() for path in sorted(folder.rglob("*.*"))}
    written(hostile)
    assert first == {path: path.read_bytes() for path in sorted(folder.rglob("*.*"))}
    texts = [f"conservation/table1-full.{ending}" for ending in ("csv", "md", "tex")]
    assert [str(path.relative_to(folder)) for path in first] == [*texts, "conservation.html"]


def test_pages_are_written_without_torch(hostile):
    code = (
        "import sys; from lit_fa.commands.table import main; main(sys.argv[1:]);"
        "print([name for name in ('torch', 'lightning', 'timm') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "report", str(hostile), "--write", str(hostile.parent / "pages")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().endswith("[]")


def test_the_pages_of_two_papers_are_well_formed_linked_and_small(tmp_path):
    suite = pages_of(tmp_path, "foundations", "ssa")
    assert_well_formed_linked_and_small(suite, {"foundations.html", "ssa.html"}, 20)


@pytest.mark.slow  # reads every committed record and draws every figure
def test_the_whole_suite_is_well_formed_linked_and_small(suite):
    papers = {"conservation.html", "fedfwd.html", "foundations.html", "fwm.html", "ssa.html"}
    assert_well_formed_linked_and_small(suite, papers, 500)


def assert_well_formed_linked_and_small(suite: Path, papers: set[str], numbers: int) -> None:
    """`papers`: pages that are there; `numbers`: fewest linked numbers of the index."""
    index = Page((suite / "index.html").read_text())
    pages = {path.name: Page(path.read_text()) for path in suite.glob("*.html")}
    assert papers < set(pages)
    places = {name: set(page.ids) for name, page in pages.items()}
    for name, page in pages.items():
        assert len(places[name]) == len(page.ids), name
        assert (suite / name).stat().st_size < 3e6
    for name, page in pages.items():
        for href, *_ in page.links:
            if href.startswith(("http", "data:")):
                continue
            file, _, anchor = href.partition("#")
            assert not file or (suite / unquote(file)).is_file(), href
            assert not anchor or anchor in places[file or name], href
    assert sum("number" in held and "phone" not in held for *_, held in index.links) > numbers


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["index", "conservation", "fedfwd", "foundations", "fwm", "ssa"])
def test_chromium_shows_every_page_without_sideways_scrolling(suite, tmp_path, width, name):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    # A window is never narrower than 500 px; a frame is.
    frame = f"<iframe id=f style='border:0;width:{width}px;height:1800px' src='file://{suite}/{name}.html'></iframe>"
    look = "onload=()=>{let d=f.contentDocument;document.title=d.documentElement.scrollWidth}"
    (tmp_path / "frame.html").write_text(f"<body style='margin:0'>{frame}<script>{look}</script>")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
    flags += [f"--user-data-dir={tmp_path}/profile", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [browser, *flags, f"--window-size={max(width, 500)},1800"]
    url = f"file://{tmp_path}/frame.html"
    dom = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True).stdout
    assert f"<title>{width}</title>" in dom
    picture = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={picture}", url], capture_output=True, timeout=120, check=True)
    shown = Image.open(picture).convert("L").crop((0, 0, width, 1800))
    assert len(shown.getcolors()) > 50  # text and pictures, not an empty page


def test_of_many_seeds_the_small_pictures_draw_some_and_say_so(declared, save, fill, tmp_path):
    declared["seeds"] = list(range(40))
    path = save(declared)
    for file in fill(path, "full"):
        data = json.loads(file.read_text())
        data["curves"] = {"val/accuracy": [[i, i, data["seed"] + i] for i in range(3)]}
        file.write_text(json.dumps(data))
    assert main(["report", str(path), "--scale", "full", "--write", str(tmp_path / "pages")]) == 0
    page = (tmp_path / "pages" / "conservation.html").read_text()
    assert page.count("val/accuracy, 0 to 41.00, 14 of 40 seeds") >= 2
    assert page.count("<polyline") == 2 * 14


def test_the_totals_of_a_paper_say_its_cpu_time_where_records_have_it(declared, save, fill, tmp_path):
    path = save(declared)
    first, *_ = fill(path, "full")
    words = ["report", str(path), "--scale", "full", "--write", str(tmp_path / "pages")]
    assert main(words) == 0
    before = (tmp_path / "pages" / "conservation.html").read_text()
    data = json.loads(first.read_text())
    first.write_text(json.dumps(data | {"cpu_time_s": 7200}))
    assert main(words) == 0
    after = (tmp_path / "pages" / "conservation.html").read_text()
    assert after.count("CPU time, the 1 runs that recorded it") == before.count("CPU time, the") + 2


def test_the_pictures_of_a_table_have_an_axis_below_with_round_ticks(declared, save, fill, tmp_path):
    declared["cells"] = [
        {"row": row, "column": column, "set": {"a": [row, column]}}
        for row in ("FA", "BP")
        for column in ("w 32", "w 64")
    ]
    path = save(declared)
    fill(path, "full")
    html = (written(path), (path.parent / "pages/conservation.html").read_text())[1]
    foot = re.search(r"<tfoot>.*?</tfoot>", html, re.S).group()
    assert re.findall(r"<td class=\"axis-name\"[^>]*><span>(.*?)</span>", foot) == [
        *("w 32: test/accuracy (%)", "w 64: test/accuracy (%)"),
    ]
    labels = re.findall(r'<text x="([\d.]+)" y="15" text-anchor="middle">([\d.]+)</text>', foot)
    assert [number for _, number in labels] == ["90", "92"] * 2
    for place, _ in labels:  # the runs of seeds 0 and 2 lie where the axis says 90 and 92
        assert html.count(f'<circle cx="{place}"') == 4


def test_many_commits_are_folded_away(declared, save, fill):
    path = save(declared)
    files = fill(path, "full")
    for k, file in enumerate(files):
        data = json.loads(file.read_text())
        file.write_text(json.dumps(data | {"commit": f"{k}bcdef01"}))
    html = (written(path), (path.parent / "pages/conservation.html").read_text())[1]
    assert "<details><summary>6 commits</summary>0bcdef0, 1bcdef0" in html
    assert html.count("0bcdef0, 1bcdef0") == html.count("<details><summary>6 commits</summary>")


def test_one_commit_is_shown(declared, save, fill):
    path = save(declared)
    fill(path, "full")
    assert "<dd>abcdef0</dd>" in (written(path), (path.parent / "pages/conservation.html").read_text())[1]


def test_a_table_under_a_heading_of_the_card_has_no_heading_of_its_own(declared, save, fill, tmp_path):
    begin, end = markers("table1")
    (tmp_path / "README.md").write_text(f"# The card\n\n## Table 1: widths\n\n{begin}\nold\n{end}\n")
    path = save(declared)
    fill(path, "full")
    html = (written(path), (path.parent / "pages/conservation.html").read_text())[1]
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html) == ["Table 1: widths"]
    assert '<p class="named">Table 1 <code>table1</code></p>' in html


def two_papers(declared, save, fill, tmp_path) -> Path:
    """Pages of a paper with a settled number, of one that ran without any, and of one that did not run."""
    found = []
    names = {"early": ("alpha", None), "settled": ("beta", "full"), "ran": ("gamma", "full"), "later": ("beta", None)}
    for name, (key, scale) in names.items():
        one = json.loads(json.dumps(declared))
        one["paper"] |= {"key": key, "title": f"paper {key}", "table": f"Table {name}"}
        if name == "ran":
            del one["cells"][0]["published"]
        path = save(one, f"{name}.yaml")
        if scale:
            fill(path, scale, accuracy=lambda run: 91.0 + 0.001 * run.seed)
        table = load_table(path)
        collected = collect(table, table.scale("full"), path.parent / "results" / name / "full")
        found.append((collected, compare(collected)))
    write_pages(found, tmp_path / "pages")
    return tmp_path / "pages" / "index.html"


def test_the_index_leads_with_what_is_settled_and_ends_with_what_has_not_run(declared, save, fill, tmp_path):
    html = two_papers(declared, save, fill, tmp_path).read_text()
    page = Page(html)
    assert re.findall(r"<h2>(?:<a [^>]*>)?(.*?)(?:</a>)?</h2>", html) == [
        *("What is settled", "Papers", "paper beta", "paper gamma", "paper alpha"),
    ]
    settled = html[html.index("What is settled") : html.index("<h2>Papers")]
    assert settled.count("<tr>") == 2  # the head, and FA of beta
    assert "FA, width 32" in settled
    assert "agrees (p" in settled
    counted = re.findall(r'<li class="badge ?\w*"><b>(\d+)</b> ([\w ]+)</li>', html[: html.index("What is settled")])
    assert counted == [("3", "published numbers"), ("1", "agreed"), ("2", "not run")]
    assert "No run has been made at this scale of:" in page.text
    assert html.index('href="beta.html#settled"') < html.index('href="beta.html#later"')


def test_the_tables_without_runs_are_the_last_of_a_paper(declared, save, fill, tmp_path):
    two_papers(declared, save, fill, tmp_path)
    html = (tmp_path / "pages" / "beta.html").read_text()
    assert html.index('<section class="table" id="settled">') < html.index('<section class="table" id="later">')


def test_a_table_that_scrolls_has_a_shadow_where_it_goes_on():
    css = (ROOT / "lit_fa/reports/templates/style.css").read_text()
    rule = re.search(r"\n\.scroll \{(.*?)\n\}", css, re.S).group(1)
    assert rule.count(" local") == 2  # covers that move with the table
    assert rule.count("var(--shade)") == 2
    assert css.count("--shade:") == 2  # light and dark
