"""The gallery: every picture that its page shows is drawn, from committed records and from runs on real digits."""

import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest
from PIL import Image

from docs.site import gallery
from docs.site.pages import DOCS

PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")
PICTURES = set(re.findall(r"\(/gallery/([^)]+)\)", PAGE))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    gallery.write(folder)
    return folder


@pytest.mark.slow  # trains for ten seconds and reads the records of all papers
def test_every_picture_of_the_page_is_drawn_and_can_be_read(drawn):
    assert len(PICTURES) >= 10
    for name in sorted(PICTURES):
        if name.endswith(".svg"):
            ET.fromstring((drawn / name).read_text())
        else:
            assert len(Image.open(drawn / name).convert("RGB").getcolors(1 << 20)) > 10


def test_the_page_has_a_figure_of_every_kind():
    for words in (
        "Published against measured",
        "Accuracy and alignment by rule",
        "Conservation",
        "Goodness",
        "Feedback",
    ):
        assert f"\n## {words}" in PAGE
    assert {"depth.png", "client_drift.svg", "drift_over_step.svg", "goodness.png", "feedback.png"} <= PICTURES


@pytest.mark.parametrize("name", gallery.DECLARED)
def test_a_declared_figure_of_the_gallery_has_its_records(name):
    table, scale, file = gallery.DECLARED[name]
    assert (gallery.CONFIGS / table).is_file()
    stem = file.removesuffix(".png")
    assert (gallery.CONFIGS / table).with_name("results").joinpath(f"{stem}-{scale}.png").is_file()


def test_the_picture_of_the_readme_is_small_and_is_what_its_command_draws(tmp_path):
    from lit_fa.commands.table import main

    pinned = re.search(r"^matplotlib==(.*)$", (DOCS.parent / "constraints.txt").read_text(), re.M).group(1)
    if matplotlib.__version__ != pinned:
        pytest.skip(f"drawn with matplotlib {pinned}")
    committed = DOCS / "static" / "rules.svg"
    assert committed.stat().st_size < 150_000
    table = gallery.CONFIGS / "foundations" / "mnist_mlp.yaml"
    records = table.parent / "results" / "mnist_mlp" / "cpu"
    words = ["report", str(table), "--scale", "cpu", "--out", str(tmp_path), "--figure", str(tmp_path / "rules.svg")]
    (tmp_path / "mnist_mlp").mkdir()
    (tmp_path / "mnist_mlp" / "cpu").symlink_to(records)
    assert main(words) == 0
    assert (tmp_path / "rules.svg").read_bytes() == committed.read_bytes()


def test_tables_and_pictures_of_the_site_go_on_sideways_and_show_it():
    css = (DOCS / "static" / "site.css").read_text()
    wrapper = re.search(r"\.table-wrapper \{(.*?)\n\}", css, re.DOTALL).group(1)
    assert "overflow-x: auto" in wrapper
    assert (wrapper.count("% local"), wrapper.count("% scroll")) == (2, 2)  # covers move with the table, shadows stay
    phone = css.split("@media (max-width: 40rem)")[1]
    assert "article p:has(> img) { overflow-x: auto; }" in phone
