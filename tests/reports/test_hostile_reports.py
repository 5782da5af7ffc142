"""What others write into tables, cards and records is shown and does nothing: no script, formula, path or line."""

import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from lit_fa.commands.table import main
from lit_fa.errors import UserError
from lit_fa.escaping import csv_value
from lit_fa.jobs.slurm import job_array
from lit_fa.reports.card import block, markers
from lit_fa.reports.card_html import story
from lit_fa.reports.figures import math_label
from lit_fa.reports.formats import comma_separated
from lit_fa.reports.formulas import mathml
from lit_fa.results.compare import compare
from lit_fa.results.records import collect
from lit_fa.spec.table import load_table
from tests.reports.page_parser import Page

LABELS = [
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "<!-- table:table1:end -->",
    "](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "`code` *bold* _under_ ~struck~ a|b",
    "$\\frac",
    "$x$ costs $5",
    "=HYPERLINK(1)",
    "+1+1",
    "@SUM(1)",
    "- none",
    "&lt;b&gt; &#x3c;",
    "\\\\ & % # {",
    "{{ 7*7 }} {% if %}",
    "[/b] [red]",
]
CARD = r"""# <script>alert(0)</script>

$\text{<script>alert(1)</script>}$ and $\text{<!--> <script>alert(2)</script> -->}$ and $\href{javascript:alert(3)}{x}$
$\style{background:url(http://example.org)}{x} \class{a}{b}$ FORMULA0END FORMULA7END

<script>alert(4)</script> <img src=x onerror=alert(5)> <svg onload=alert(6)>

[a](javascript:alert(7)) [b](JaVaScRiPt:alert(8)) [c](data:text/html,x) [d](./javascript:alert(9)) [e](vbscript:x)
[f](x$\text{" onmouseover=alert(10) }$) [g](notes.md "$\text{\" onclick=alert(11) }$") ![h](http://example.org/i.png)
<javascript:alert(12)> [i](file:///etc/passwd) [j](HTTPS://example.org) `$\text{<script>}$`
[![k](http://example.org/k.png)](notes.md)

```$\text{<script>alert(13)</script>}$
$\text{<script>alert(14)</script>}$
```
"""


def harmless(text: str) -> Page:
    """The page, once nothing in it runs or loads but its own script."""
    page = Page(text)
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", text, re.S)
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts] == re.findall(
        "'sha256-(.*?)'", policy
    )
    for tag, attributes in page.elements:
        assert tag not in {"iframe", "object", "embed", "base", "form", "link", "foreignobject", "use"} or tag == "use"
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action"):
                allowed = ("#", "./", "../", "https://", "HTTPS://", "http://arxiv", "conservation")
                download = tag == "a" and "download" in attributes and value.startswith("data:text/")
                picture = tag == "img" and value.startswith("data:image/png;base64,")
                tex = tag == "a" and "download" in attributes and value.startswith("data:application/x-tex")
                assert value.startswith(allowed) or download or picture or tex, (tag, name, value)
            if name == "id":
                assert re.fullmatch(r"[\w.-]+", value), value
    return page


@pytest.fixture
def hostile(declared, save, fill, tmp_path, monkeypatch) -> Path:
    """A table in which every text is a payload, its card, and records that say payloads of their machines."""
    monkeypatch.chdir(tmp_path)
    text = LABELS[1] + LABELS[0]
    declared["paper"] |= {"title": text, "arxiv": '"><script>alert(1)</script>', "table": text}
    declared["metric"] |= {"unit": LABELS[0]}
    declared["also"] = [{"name": "test/loss", "unit": "=1+1"}]
    declared["assumed"] = {"a`b": text, LABELS[2]: f"note\n{LABELS[2]}\n"}
    declared["scales"]["full"]["note"] = text
    declared["cells"] = [
        {"row": row, "column": column, "set": {"a": [row, column]}, "note": f"{row}\n{LABELS[2]}",
         "published": {"value": 91, "unit": LABELS[0], "source": f"{row}\n", "protocol": LABELS[0]}}
        for row in LABELS for column in LABELS[:2]
    ]  # fmt: skip
    look = {"title": LABELS[6], "ylabel": text, "xlabel": LABELS[7]}
    line = {"value": 1, "label": "$\\frac"}
    declared["figures"] = [
        {"file": "law.svg", "y": "conserve/normalised", "panels": "column", "hline": line, **look},
        {"file": "a b(c).png", "kind": "bars", "y": "test/loss", "x": "row", "lines": "column", **look},
    ]  # fmt: skip
    declared["seeds"] = [0, 1]
    declared["scales"]["cpu"]["seeds"] = [0]
    path = save(declared, "'\"><script>alert(1)<|script>.yaml")
    begin, end = markers(path.stem)
    (tmp_path / "README.md").write_text(f"{CARD}\n{begin}\n{end}\n\nAfter.\n")
    odd = {"commit": LABELS[0], "broken": [text], "executed_by": {text: text}, "versions": {text: text}}
    fill(path, "full", hardware={"cpu": f"{text}\n{LABELS[2]}", "gpu": LABELS[3]}, **odd)
    return path


def test_no_text_of_others_is_more_than_text_in_a_page(hostile, capsys):
    assert main(["report", str(hostile), "--scale", "full", "--write", "pages"]) == 0
    page = harmless(Path("pages/conservation.html").read_text())
    for label in LABELS:
        assert label in page.text
    assert "alert(4)" in page.text
    names = sorted(file.name for file in Path("pages/conservation").iterdir())
    assert all(re.fullmatch(r"script-alert-1-script-[0-9a-f]{6}-full\.(csv|md|tex)", name) for name in names)
    assert {*os.listdir()} == {"README.md", "base.yaml", hostile.name, "pages", "results"}


def test_a_picture_carries_no_script(hostile):
    assert main(["report", str(hostile), "--scale", "full", "--card"]) == 0
    root = ElementTree.fromstring(Path("results/law-full.svg").read_text())
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in ("script", "foreignObject", "image", "a")
        assert not [name for name in element.attrib if name.lower().startswith("on")]


def test_a_card_keeps_what_is_around_its_table_and_does_not_grow(hostile):
    main(["report", str(hostile), "--scale", "full", "--card"])
    first = Path("README.md").read_text()
    main(["report", str(hostile), "--scale", "full", "--card"])
    assert Path("README.md").read_text() == first
    assert first.startswith(CARD)
    assert first.endswith("-->\n\nAfter.\n")


def test_the_block_of_a_card_shows_labels_as_they_are_written(hostile):
    table = load_table(hostile)
    found = collect(table, table.scale("full"), hostile.parent / "results" / table.name / "full")
    text = block(found, hostile.parent / "README.md", hostile.parent / "results")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert re.findall(r"<(?:script|b|svg)\b|<img(?! src=\"results/)|<a ", html) == []
    shown = Page(f"<p>{re.sub('<!--.*?-->', '', html).replace(' />', '>')}</p>")
    tables = re.findall("<tr>", html)
    assert len(tables) == 1 + 2 * len(LABELS)
    for label in LABELS:
        assert label in shown.text
    assert re.sub("`[^`\n]+`", "", text).count("<!--") == 1  # of the scale


def test_csv_cells_are_no_formulas_and_numbers_stay_numbers(hostile):
    table = load_table(hostile)
    found = collect(table, table.scale("full"), hostile.parent / "results" / table.name / "full")
    rows = list(csv.DictReader(io.StringIO(comma_separated(found, compare(found)))))
    assert {row["unit"] for row in rows} == {LABELS[0], "'=1+1"}
    for row in rows:
        for value in row.values():
            assert not value.startswith(("=", "+", "-", "@", "\t", "\r")) or float(value) is not None
    assert float(rows[0]["difference"] or -1) < 0
    assert csv_value("\t=1") == csv_value("\r=1") == "'=1"


def test_a_formula_is_known_elements_or_stays_as_it_is_written(tmp_path):
    assert mathml(r"\text{<script>}", block=False).count("<script") == 0
    assert "&lt;script&gt;" in mathml(r"\text{<script>}", block=False)
    linked = mathml(r"\href{javascript:alert(1)}{x} \style{color:red}{y} \class{z}{z}", block=True)
    assert not re.search("href|style=|class=|javascript", linked)
    assert mathml(r"\left(", block=False) is None
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in mathml(r"\frac{a}{b}", block=False)
    (tmp_path / "README.md").write_text("FORMULA0END $x$ `FORMULA1END $y$` [l](a$z$b)\n")
    _, [(_, html)] = story(tmp_path / "README.md", tmp_path)
    assert html.startswith("<p>FORMULA0END <math ")
    assert "<code>FORMULA1END $y$</code>" in html
    assert 'href="./a$z$b"' in html
    (tmp_path / "README.md").write_text("$$\n\\left( <b>\n$$\n\nand $\\left( <i>$, $$\\frac{<s>}{2}$$\n")
    _, [(_, html)] = story(tmp_path / "README.md", tmp_path)
    assert "$$\n\\left( &lt;b&gt;\n$$" in html
    assert "$\\left( &lt;i&gt;$" in html
    assert html.count("<math") == 1
    assert not re.search("<[bis]>", html)


@pytest.mark.parametrize("text", ["$\\frac", "$\\frac$", "${$", "$x", "a $\\badcommand$ b", "$" * 3])
def test_a_label_that_is_no_mathematics_is_drawn_as_it_is_written(text):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().set_title(math_label(text))
    figure.savefig(io.BytesIO(), format="png")
    assert math_label("$x^2$") == "$x^2$"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{begin}\n{end}\n{begin}\n{end}\n", "more than once"),
        ("{begin}\n{end}\n{end}\n", "more than once"),
        ("{end}\n{begin}\n", "no place"),
        ("Write {begin} and {end}.\n", "no place"),
        ("```\n{begin}\n{end}\n```\n", "no place"),
        ("caf\xe9 {begin}", "not UTF-8"),
    ],
)
def test_a_card_with_odd_markers_is_refused_and_kept(declared, save, fill, tmp_path, content, said):
    path, card = save(declared), tmp_path / "card.md"
    fill(path, "full")
    begin, end = markers("table1")
    card.write_bytes(content.format(begin=begin, end=end).encode("latin-1"))
    before = card.read_bytes()
    with pytest.raises(UserError, match=said):
        main(["report", str(path), "--scale", "full", "--card", str(card)])
    assert card.read_bytes() == before


def test_markers_that_are_quoted_are_no_markers_and_line_ends_are_kept(declared, save, fill, tmp_path):
    path, card = save(declared), tmp_path / "README.md"
    fill(path, "full")
    begin, end = markers("table1")
    before = f"Write `{begin}` and `{end}`:\r\n\r\n```\r\n{begin}\r\n{end}\r\n```\r\n{begin}\r\n"
    card.write_bytes(f"{before}{end}\r\nAfter.\r\n".encode())
    assert main(["report", str(path), "--scale", "full", "--card"]) == 0
    written = card.read_bytes().decode()
    assert written.startswith(before)
    assert written.endswith(f"\r\n{end}\r\nAfter.\r\n")
    assert "\n" not in written.replace("\r\n", "")


@pytest.mark.parametrize(
    "key", ["/tmp/out", "../../out", "..", ".", "", "a/b", "a\\b", "a\nb", "a\0b", "~/x/..", "k" * 300, "\u202ea"]
)
def test_a_citation_key_is_no_path(declared, save, key):
    declared["paper"]["key"] = key
    path = save(declared)
    with pytest.raises(UserError, match=r"paper\.key|cannot be printed") as told:
        load_table(path)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["...yaml", "a\nb.yaml", "a\x1b[2J.yaml", "a\\b.yaml"])
def test_a_table_whose_file_name_is_a_path_or_no_line_is_refused(declared, save, name):
    path = save(declared, name)
    with pytest.raises(UserError, match="the file's name") as told:
        main(["report", str(path)])
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("row", "a\nb"),
        ("column", "a\x85b"),
        ("row", "\ud800"),
        ("row", "a\0"),
        ("row", "n" * 300),
        ("column", "\u2028"),
    ],
)
def test_a_label_that_is_no_line_is_refused(declared, save, where, value):
    declared["cells"][0][where] = value
    with pytest.raises(UserError) as told:
        main(["report", str(save(declared)), "--scale", "full"])
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("file", ["a\nb.png", "...png", "a\\b.png"])
def test_a_figure_whose_name_is_no_name_is_refused(declared, save, file):
    declared["figures"] = [{"file": file, "y": "conserve/normalised"}]
    with pytest.raises(UserError, match=r"figures\[0\]\.file"):
        load_table(save(declared))


def test_a_figure_stays_in_the_folder_of_results(declared, save, fill, tmp_path):
    declared["figures"] = [{"file": "../../../out.png", "y": "conserve/normalised", "panels": "column"}]
    path = save(declared)
    fill(path, "full")
    assert main(["report", str(path), "--scale", "full", "--card"]) == 0
    assert (tmp_path / "results" / "out-full.png").is_file()


@pytest.mark.parametrize("linked", ["results", "results/table1", "results/law-full.png"])
def test_a_link_out_of_the_project_is_not_written_through(
    declared, save, fill, tmp_path, tmp_path_factory, linked, capsys
):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "kept.png").write_text("kept")
    declared["figures"] = [{"file": "law.png", "y": "conserve/normalised", "panels": "column"}]
    path = save(declared)
    files = fill(path, "full")
    if linked.endswith("png"):
        (tmp_path / linked).symlink_to(outside / "kept.png")
    else:
        shutil.copytree(tmp_path / linked, outside / "moved")
        shutil.rmtree(tmp_path / linked)
        (tmp_path / linked).symlink_to(outside / "moved")
        (outside / "moved" / files[0].relative_to(tmp_path / linked)).unlink()
        with pytest.raises(UserError, match=r"is a link to .*; give the folder with --out"):
            main(["run", str(path), "--scale", "full"], runner="no.such:runner")
    before = sorted(outside.rglob("*"))
    capsys.readouterr()
    assert main(["report", str(path), "--scale", "full", "--card"]) == (0 if linked == "results/table1" else 2)
    assert ("is a link to" in capsys.readouterr().out) == (linked != "results/table1")
    assert sorted(outside.rglob("*")) == before
    assert (outside / "kept.png").read_text() == "kept"


@pytest.mark.parametrize("option", ["time=1\n#SBATCH --wrap=x", "a\rb", "", "  ", "a\x00b", "\u2028x"])
def test_an_option_of_slurm_is_one_line(declared, save, option, tmp_path):
    with pytest.raises(UserError, match="--sbatch"):
        main(["emit", str(save(declared)), "--slurm", "--sbatch", option, "--to", str(tmp_path / "array")])
    assert not (tmp_path / "array").exists()


def test_words_with_line_ends_stay_words_of_a_slurm_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [["lit-fa", "table", "run", "a\n#SBATCH --wrap=x\ntouch made", "$(touch made)"]]
    script = job_array(lines, "n\n#SBATCH --x\n --wrap=y", ["time=1"])
    directives = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    head = script[: script.index("lines=(")].splitlines()
    assert head[1] == "#SBATCH --job-name=lit-fa-n-SBATCH---x---wrap-y"
    assert directives[: len(head) - 1] == head[1:]  # sbatch reads directives up to the first command
    assert not [line for line in head if line.startswith(("#SBATCH --x", "#SBATCH --wrap"))]
    subprocess.run(["bash", "-c", script.replace('eval "', 'eval ": ')], env={"SLURM_ARRAY_TASK_ID": "0"}, check=True)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "base", ["root:x:0:0:root:/root:/bin/bash\n", "- secret word\n", "secret: word\nsecret: word\n"]
)
def test_a_base_that_is_no_config_is_named_and_not_shown(declared, save, tmp_path, base):
    path = save(declared)
    (tmp_path / "base.yaml").write_text(base)
    with pytest.raises(UserError) as told:
        load_table(path)
    assert "base.yaml" in str(told.value)
    assert not re.search("/bin/bash|word", str(told.value))


def test_a_card_that_cannot_be_read_is_named_and_the_rest_is_written(declared, save, fill, tmp_path, capsys):
    path, card = save(declared), tmp_path / "README.md"
    fill(path, "full")
    card.write_bytes("# caf\xe9\n".encode("latin-1"))
    words = ["report", str(path), "--scale", "full", "--card"]
    words += ["--json", str(tmp_path / "a.json"), "--write", str(tmp_path / "p")]
    assert main(words) == 2
    assert capsys.readouterr().out.count(f"left out: {card}: cannot be read (it is not UTF-8 text)") == 1
    assert card.read_bytes() == b"# caf\xe9\n"
    harmless((tmp_path / "p" / "conservation.html").read_text())
    assert (tmp_path / "a.json").is_file()
