"""The reference: every public name, by package."""

import ast
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "lit_fa.callbacks": "Callbacks: what is measured during training",
    "lit_fa.datamodules": "Data sets as LightningDataModules",
    "lit_fa.functional": "Formulas as pure functions of tensors",
    "lit_fa.layers": "How a rule is installed in a network",
    "lit_fa.results": "Records and verdicts",
}


def reference_pages() -> dict[str, str]:
    """File of the site to its text."""
    first = public("lit_fa")
    pages = {"reference/lit_fa.md": page("lit_fa", "The public names of `lit_fa`", first)}
    shown = {id(named(name)) for name in first}
    for package, title in PACKAGES.items():
        names = [name for name in members(package) if id(named(name)) not in shown and callable(named(name))]
        pages[f"reference/{package}.md"] = page(package, title, names)
    listed = "\n".join(name.removeprefix("reference/").removesuffix(".md") for name in pages)
    index = f"# Reference\n\nGenerated from the docstrings.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    return pages | {"reference/index.md": index}


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
    """A page of one package: `autodoc` for every name."""
    blocks = "\n\n".join(f".. auto{kind_of(name)}:: {name}{options(name)}" for name in names)
    return f"# {package}\n\n{title}.\n\n```{{eval-rst}}\n{blocks}\n```\n"


def options(name: str) -> str:
    """What autodoc shows of a class: its own members."""
    return "\n   :members:" if kind_of(name) == "class" else ""


def kind_of(name: str) -> str:
    """`class` or `function`, as autodoc names it."""
    return "class" if isinstance(named(name), type) else "function"


def named(name: str) -> Any:
    """The object of a full name."""
    home, _, own = name.rpartition(".")
    return getattr(import_module(home), own)
