"""The reference: every public name, by package."""

import ast
import inspect
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

from docs.site.options import inherited

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "lit_fa.callbacks": "Callbacks: what is measured during training",
    "lit_fa.datamodules": "Data sets as LightningDataModules",
    "lit_fa.functional": "Formulas as pure functions of tensors",
    "lit_fa.layers": "How a rule is installed in a network",
    "lit_fa.results": "Records and verdicts",
    "lit_fa.testing": "Contracts of a rule that lives in another package",
}


def reference_pages() -> dict[str, str]:
    """File of the site to its text."""
    pages = {f"reference/{package}.md": page(package, title, names) for package, title, names in packages()}
    listed = "\n".join(name.removeprefix("reference/").removesuffix(".md") for name in pages)
    index = f"# Reference\n\nGenerated from the docstrings.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    return pages | {"reference/index.md": index}


@cache
def packages() -> list[tuple[str, str, list[str]]]:
    """Package, title of its page and full names on it; each object is on the first page that has a name for it."""
    found = [("lit_fa", "The public names of `lit_fa`", public("lit_fa"))]
    shown = {id(named(name)) for name in public("lit_fa")}
    for package, title in PACKAGES.items():
        names = [name for name in members(package) if id(named(name)) not in shown and callable(named(name))]
        found.append((package, title, names))
    return found


@cache
def full_names() -> dict[int, str]:
    """Id of every object of the reference to the name that it has there."""
    return {id(named(name)): name for _, _, names in packages() for name in names}


def public(package: str) -> list[str]:
    """The full names of the public objects of a package."""
    return [f"{package}.{name}" for name in import_module(package).__all__]


def members(package: str) -> list[str]:
    """The public objects of a package, or those that its modules define where it has no list of them."""
    if hasattr(import_module(package), "__all__"):
        return public(package)
    folder = ROOT / package.replace(".", "/")
    return [f"{package}.{file.stem}.{name}" for file in sorted(folder.glob("*.py")) for name in defined(file)]


def defined(file: Path) -> Iterable[str]:
    """The public functions and classes of a module, in the order of the file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def page(package: str, title: str, names: list[str]) -> str:
    """A page of one package: `autodoc` for every name, below the text of its module where the package has no names."""
    parts = [f"# {package}\n\n{title}."]
    for home, own in groupby(names, lambda name: name.rpartition(".")[0]):
        if home != package:
            parts.append(f"## {home}\n\n{module_text(import_module(home))}")
        parts.append("```{eval-rst}\n" + "\n\n".join(map(block, own)) + "\n```")
    return "\n\n".join(parts) + "\n"


def module_text(module: ModuleType | None) -> str:
    """The docstring of a module as Markdown; norms in a row of a table, where a bar ends a cell, have no bars."""
    lines = (inspect.getdoc(module) or "").split("\n")
    return "\n".join(line.replace(r"\|", r"\Vert ") if line.startswith("|") else line for line in lines)


def block(name: str) -> str:
    """What autodoc shows of a name: of a class its own members, and the notes."""
    if kind_of(name) == "function":
        return f".. autofunction:: {name}"
    members_of = vars(named(name)).items()
    classes = [own for own, value in members_of if isinstance(value, type) and not own.startswith("_")]
    hidden = f"\n   :exclude-members: {', '.join(classes)}" if classes else ""  # autodoc would show them as aliases
    return f".. autoclass:: {name}\n   :members:{hidden}\n{notes(named(name))}"


def notes(kind: type) -> str:
    """What a class's own docstring does not say: the paper, and options that a base class describes, with a link."""
    lines = [f"Source: {kind.paper}."] if getattr(kind, "paper", "") else []  # type: ignore[attr-defined]
    for base, options in inherited(kind).items():
        link = f":py:class:`{base.__name__} <{full_names()[id(base)]}>`"
        lines.append(f"Options of {link}: {', '.join(f'``{option}``' for option in options)}.")
    return "".join(f"\n   {line}\n" for line in lines)


def kind_of(name: str) -> str:
    """`class` or `function`, as autodoc names it."""
    return "class" if isinstance(named(name), type) else "function"


def named(name: str) -> Any:
    """The object of a full name."""
    home, _, own = name.rpartition(".")
    return getattr(import_module(home), own)
