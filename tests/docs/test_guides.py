"""The guides say what the code says: messages, extras, options."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from lit_fa.named_loggers import NAMES

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs/guides"
MESSAGES = re.findall(r"```text\n(.*?)```", (GUIDES / "troubleshooting.md").read_text(encoding="utf-8"), re.DOTALL)
SHORTEST = 6  # characters of a part between two places for names


@cache
def texts() -> str:
    """Every text in the sources, one a line; the parts of a formatted one are apart."""
    files = sorted(file for room in ("lit_fa", "callbacks", "datamodules") for file in (ROOT / room).rglob("*.py"))
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_in_the_source(message):
    parts = [" ".join(part.split()) for part in message.split("…")]
    known = [part for part in parts if len(part) >= SHORTEST]
    assert known, "nothing of it can be looked for"
    assert [part for part in known if part not in texts()] == []


def test_the_extras_of_the_guide_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        extra: [re.split(r"[<>=\[]", package)[0] for package in packages]
        for extra, packages in project["optional-dependencies"].items()
    }
    page = (GUIDES / "installation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE)
    assert {extra: packages.strip().split(", ") for extra, packages in rows} == named


def test_every_logger_has_a_row():
    page = (GUIDES / "loggers.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == NAMES


def test_the_container_file_copies_what_it_installs():
    lines = (ROOT / ".ci/Containerfile").read_text(encoding="utf-8")
    assert "COPY . /src" in lines
    assert 'ENTRYPOINT ["lit-fa"]' in lines


@pytest.mark.parametrize("name", ["slurm", "export"])
def test_every_option_of_a_guide_is_in_the_source(name):
    page = (GUIDES / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("lit-fa ")]
    options = {word.partition("=")[0] for line in lines for word in line.split() if word.startswith("--")}
    known = texts().splitlines()
    assert sorted(option for option in options if option not in known and option not in ("--config",)) == []
