"""The source files of ours that a run can reach: those of its config's classes, and the files that they import.

Import statements are parsed, not executed. A name that a package re-exports leads to the file that defines it, so a
config with one rule does not reach the other rules.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lit_fa.import_paths import is_ours, short
from lit_fa.provenance import DECIDING, ROOT, class_paths


def reached(config: dict[str, Any], root: Path = ROOT) -> frozenset[str]:
    """Paths below `root` of every file of ours whose code a run of this config can use.

    The search begins at the classes of the config, at any depth, and at its network.
    """
    roots = {file for path in class_paths(config) for file in _named(root, path)}
    return _closure(root, frozenset(roots | {file for name in _networks(config) for file in _network(root, name)}))


@cache
def _closure(root: Path, files: frozenset[str]) -> frozenset[str]:
    reached, queue = set(files), sorted(files)
    while queue:
        new = _imported(root, queue.pop()) - reached
        reached |= new
        queue += new
    return frozenset(file for file in reached if file.startswith(tuple(f"{package}/" for package in DECIDING)))


@cache
def _imported(root: Path, file: str) -> frozenset[str]:
    """The files of ours that any import statement of a file leads to."""
    files: set[str] = set()
    for node in ast.walk(_tree(root, file)):
        if isinstance(node, ast.Import):
            files |= {target for alias in node.names for target in _whole(root, alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            files |= {target for alias in node.names for target in _named(root, f"{node.module}.{alias.name}")}
    return frozenset(files - {file})


@cache
def _named(root: Path, path: str) -> frozenset[str]:
    """The file that defines the object at a dotted path; empty for code that is not ours."""
    package, _, name = path.rpartition(".")
    if not is_ours(path) or not package:
        return frozenset()
    if file := _file(root, path):
        return frozenset({file})
    home = _file(root, package)
    if home is None:
        return _named(root, package)  # an attribute of an object
    if not home.endswith("__init__.py"):
        return frozenset({home})
    for node in _tree(root, home).body:
        if isinstance(node, ast.ImportFrom) and any(name == (alias.asname or alias.name) for alias in node.names):
            original = next(alias.name for alias in node.names if name == (alias.asname or alias.name))
            return _named(root, f"{node.module}.{original}")
    return frozenset({home})


def _whole(root: Path, module: str) -> frozenset[str]:
    """The files of `import a.b`: the module and what it imports."""
    file = _file(root, module) if is_ours(module) else None
    return frozenset() if file is None else frozenset({file}) | _imported(root, file)


def _file(root: Path, module: str) -> str | None:
    stem = short(module).replace(".", "/")
    try:
        return next((file for file in (f"{stem}.py", f"{stem}/__init__.py") if (root / file).is_file()), None)
    except OSError:  # a name that no file can have
        return None


@cache
def _tree(root: Path, file: str) -> ast.Module:
    return ast.parse((root / file).read_text(encoding="utf-8"))


def _networks(config: Any) -> Iterator[str]:
    """The networks of a config, that of its pretraining included."""
    if isinstance(config, dict):
        if isinstance(name := config.get("network"), str):
            yield name
        config = list(config.values())
    for value in config if isinstance(config, list) else ():
        yield from _networks(value)


@cache
def _network(root: Path, name: str) -> frozenset[str]:
    """The file that registers one of our networks: it has a function of that name."""
    files = [path.relative_to(root).as_posix() for path in sorted((root / "lit_fa" / "networks").glob("*.py"))]
    named = (
        f for f in files for node in _tree(root, f).body if isinstance(node, ast.FunctionDef) and node.name == name
    )
    return frozenset(named)
