"""`lit-fa new rule | paper | dataset NAME`: files to begin with, which run at once."""

import argparse
import keyword
import re
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from lit_fa.config.arguments import Arguments
from lit_fa.errors import UserError
from lit_fa.import_paths import PACKAGES
from lit_fa.outputs import check_folder, write_text

_NAME = re.compile(r"[a-z][a-z0-9_]{1,40}")
# kind to what can be done with the files; a line is: what, command
NEXT = {
    "rule": (
        ("check", "python -m pytest test_@name@.py"),
        (
            "train",
            "lit-fa fit --model Classifier --model.init_args.network mlp --model.init_args.rule @name@.@Class@ "
            "--data Digits --data.init_args.flatten true --trainer.max_epochs 5",
        ),
    ),
    "paper": (
        ("run", "lit-fa table run @name@/table1.yaml"),
        ("report", "lit-fa table report @name@/table1.yaml --card @name@/README.md"),
    ),
    "dataset": (
        ("check", "python -m pytest test_@name@.py"),
        (
            "train",
            "lit-fa fit --model Classifier --model.init_args.network mlp --data @name@.@Class@ --trainer.max_epochs 5",
        ),
    ),
}
_PAGES = {"rule": "docs/adding_a_rule.md", "paper": "docs/adding_a_paper.md", "dataset": "docs/command_line.md"}


def main(argv: Sequence[str]) -> int:
    """Runs `lit-fa new <argv>` and returns the exit code."""
    arguments = _parser().parse_args(argv)
    name = checked(arguments.name, arguments.kind)
    texts = written_for(arguments.kind, name)
    check_folder(Path.cwd(), "lit-fa new")
    if there := [str(path) for path in texts if path.exists() or path.is_symlink()]:
        raise UserError(f"{there[0]} is there already and is left as it is; choose another NAME, or move it away")
    for path, text in texts.items():
        write_text(path, text)
    print(f"wrote {', '.join(map(str, texts))}")
    for what, command in NEXT[arguments.kind]:
        print(f"{what}: {_filled(command, name)}")
    print(f"read: {_PAGES[arguments.kind]}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="lit-fa new", description="Files to begin with, in the current folder; they run at once.")
    parser.add_argument("kind", choices=tuple(NEXT), help="rule: module, reference, test; paper: table, card; dataset")
    parser.add_argument("name", metavar="NAME", help="in small letters, digits and underscores: my_rule")
    return parser


def checked(name: str, kind: str) -> str:
    """The name, if files and a module can be called so.

    Raises:
        UserError: other characters, a word of Python, or the name of a module that would be hidden.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name: write 2 to 41 small letters, digits and underscores, such as my_{kind}")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UserError(f"{name} is a word of Python: choose another name, such as my_{name}")
    if name in ("lit_fa", *PACKAGES):
        raise UserError(f"{name} means a package of lit-fa in every config: choose another name, such as my_{name}")
    if kind != "paper" and not Path(f"{name}.py").exists() and find_spec(name):
        raise UserError(f"{name} is a module already, which yours would hide: choose another name, such as my_{name}")
    return name


def written_for(kind: str, name: str) -> dict[Path, str]:
    """File to its text, for a rule, paper or dataset of that name; a paper has a folder of its own."""
    folder = Path(name) if kind == "paper" else Path()
    templates = files("lit_fa") / "templates" / kind
    found = sorted(templates.iterdir(), key=lambda template: template.name)
    return {
        folder / _filled(template.name.removesuffix(".txt"), name): _filled(template.read_text(encoding="utf-8"), name)
        for template in found
        if template.name.endswith(".txt")
    }


def _filled(text: str, name: str) -> str:
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return text.replace("@name@", name).replace("@Class@", class_name)
