"""Every command and every config in README and docs is accepted."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from docs.site.pages import ROOT, sources
from lit_fa.__main__ import main

TEXTS = [ROOT / "README.md", *(page for page in sources() if page.suffix == ".md")]
FENCED = re.compile(r"```(\w*)[^\n]*\n(.*?)```", re.DOTALL)
PARSED = ("atlas", "forecast", "results", "runs", "sweep", "table")  # commands with a parser of argparse
CONFIG = re.compile(r"# (\w+\.yaml):  lit-fa fit --config \1\n")


def commands_of(text: str) -> list[str]:
    """The command lines of a page's blocks, without comments and line breaks."""
    blocks = [body for language, body in FENCED.findall(text) if language in ("", "bash", "sh", "console")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if re.match(r"(\$ )?lit-fa \w", line)]


COMMANDS = sorted({command for page in TEXTS for command in commands_of(page.read_text(encoding="utf-8"))})
CONFIGS = [body for page in TEXTS for _, body in FENCED.findall(page.read_text(encoding="utf-8")) if CONFIG.match(body)]


def words_of(command: str) -> list[str]:
    return shlex.split(re.split(r"[;&|](?= )", command)[0], comments=True)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] in PARSED])
def test_a_command_of_the_documentation_has_the_options_that_it_names(command: str, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, name, *rest = words_of(command)
    parser = import_module(f"lit_fa.commands.{name}")._parser()
    assert parser.parse_args(rest)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] == "fit" and "--config" not in c])
def test_a_run_of_the_documentation_resolves(command: str, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main([*words_of(command)[1:], "--print_config"])
    assert "class_path" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_of_the_documentation_resolves(config: str, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(config, encoding="utf-8")
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", "run.yaml", "--print_config"])
    assert "class_path" in capsys.readouterr().out


def test_the_documentation_has_commands_and_configs():
    assert len(COMMANDS) > 20
    assert len(CONFIGS) > 2
