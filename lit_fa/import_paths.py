"""Import paths of the packages `callbacks` and `datamodules`.

In the repository both are folders of the top level. Python imports them as `lit_fa.callbacks` and `lit_fa.datamodules`
(links in the repository, folders in a wheel), so a user's own module `callbacks` or `datamodules` cannot take their
place. Configs, records, checkpoints and ids keep the short names, such as `callbacks.RunRecord`: a short name means
our class, and the class of the user's own module if we have none of that name. Nothing here imports torch.
"""

import ast
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("callbacks", "datamodules")
_FOLDER = Path(__file__).resolve().parent


def short(path: str) -> str:
    """The name that configs and records use.

    >>> short("lit_fa.callbacks.RunRecord"), short("lit_fa.rules.FLFA")
    ('callbacks.RunRecord', 'lit_fa.rules.FLFA')
    """
    inner = path.removeprefix("lit_fa.")
    return inner if inner.partition(".")[0] in PACKAGES else path


def full(path: str) -> str:
    """The path under which Python imports what a config calls `path`; a user's own class keeps its path.

    >>> full("callbacks.RunRecord"), full("callbacks.probe"), full("callbacks.MyOwn")
    ('lit_fa.callbacks.RunRecord', 'lit_fa.callbacks.probe', 'callbacks.MyOwn')
    """
    package, _, rest = path.partition(".")
    ours = package in PACKAGES and (not rest or rest.partition(".")[0] in _offered(package))
    return f"lit_fa.{path}" if ours else path


def is_ours(path: str) -> bool:
    """Whether a config's name of a class or module means one of lit-fa's.

    >>> is_ours("lit_fa.rules.FLFA"), is_ours("datamodules.MNIST"), is_ours("datamodules.MyOwn")
    (True, True, False)
    """
    return full(path).partition(".")[0] == "lit_fa"


def folder(package: str) -> Path:
    """The folder of `callbacks` or `datamodules`: inside this package, or beside it where links are not supported."""
    inside = _FOLDER / package
    return inside if inside.is_dir() else _FOLDER.parent / package


@cache
def _offered(package: str) -> frozenset[str]:
    """What the package offers: names that its `__init__` imports, and its modules."""
    tree = ast.parse((folder(package) / "__init__.py").read_text(encoding="utf-8"))
    imports = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    modules = (file.stem for file in sorted(folder(package).glob("*.py")) if file.stem != "__init__")
    return frozenset([*(alias.asname or alias.name for alias in imports), *modules])


class _SameModule(Loader):
    """Loads `callbacks.x` as the module `lit_fa.callbacks.x`, so that every class exists once."""

    def __init__(self) -> None:
        self.spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(f"lit_fa.{spec.name}")
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has replaced it by that of the short name


class Finder(MetaPathFinder):
    """Finds the packages under both names.

    A short name leads to our module only from within the repository, where `import callbacks` finds our folder. A
    user's module of that name that comes first on the path is left to the user.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """The specification of one of our modules; None leaves the name to the other finders."""
        top, _, inner = name.partition(".")
        if top == "lit_fa" and inner in PACKAGES:
            return _beside(name, inner)
        if top not in PACKAGES or not _is_our_folder(top):
            return None
        return ModuleSpec(name, _SameModule(), is_package=not inner)


def _beside(name: str, package: str) -> ModuleSpec | None:
    """Our package beside `lit_fa`, in a checkout without links; None if it is inside."""
    home = folder(package)
    if home.parent == _FOLDER:
        return None
    return spec_from_file_location(name, home / "__init__.py", submodule_search_locations=[str(home)])


def _is_our_folder(package: str) -> bool:
    """Whether the short name leads to our folder, by what is loaded or else by the search path."""
    loaded = sys.modules.get(package)
    spec = PathFinder.find_spec(package) if loaded is None else None
    origin = getattr(loaded, "__file__", None) or (spec.origin if spec else None)
    return origin is not None and Path(origin).resolve() == (folder(package) / "__init__.py").resolve()


def install() -> None:
    """Let Python find the packages under both names; called once, by `import lit_fa`."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
