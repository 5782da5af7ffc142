"""The code that computed a number: commit, uncommitted changes, a hash of our sources, and versions of other classes.

All calls of git are here. Nothing here imports torch.
"""

import ast
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from lit_fa.import_paths import PACKAGES, folder, is_ours

ROOT = Path(__file__).resolve().parent.parent
# The packages whose code determines a result. Command line, tables, sweeps and export only call them.
DECIDING = (
    *(f"lit_fa/{name}" for name in ("functional", "layers", "rules", "networks", "modules", "federated")),
    "datamodules",
    "callbacks",
)
CODE = ("*.py", "*.yaml", "pyproject.toml")  # files that determine a result; committed results and figures do not
# A repository's own configuration may name programs. With these settings and variables git runs none of them: no file
# watcher, hook, pager, difference tool or text conversion. It fetches nothing, asks nothing and writes nothing.
_PLAIN = (
    "--no-pager",
    *("-c", "core.fsmonitor=", "-c", "core.hooksPath=/dev/null", "-c", "core.sshCommand=", "-c", "core.pager=cat"),
    *("-c", "diff.external=", "-c", "protocol.allow=never", "-c", "core.quotePath=false", "-c", "color.ui=false"),
)
_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
_WITHOUT_PROGRAMS = {  # submodules have configurations of their own
    "diff": ("--no-ext-diff", "--no-textconv", "--ignore-submodules=all"),
    "status": ("--ignore-submodules=all",),
}
_FILTER = re.compile(r"filter\.(.+)\.(?:clean|smudge|process|required)", re.S)
_PATIENCE = 120  # seconds


@dataclass(frozen=True)
class Code:
    """State of the code: the commit, and a short hash of the uncommitted changes ("" if there are none)."""

    commit: str
    changes: str = ""

    @property
    def dirty(self) -> bool:
        """Whether tracked code or configuration differs from the commit."""
        return bool(self.changes)

    @property
    def key(self) -> str:
        """A folder name that is different for different code."""
        return "-".join(part for part in (self.commit[:12], self.changes) if part)


def code_in(folder: Path, *files: Path) -> Code:
    """The state of the code in the repository of `folder`, and of further `files` in it.

    The commit is "unknown" without git, outside a repository, and in a repository that tracks nothing in `folder`.
    """
    filters = without_filters(folder)
    if filters is None:
        return Code("unknown")

    def git(place: Path, *arguments: str) -> str | None:
        printed = _called(place, *filters, *arguments)
        return None if printed is None else printed.decode("utf-8", "replace").strip()

    commit, top = git(folder, "rev-parse", "HEAD"), git(folder, "rev-parse", "--show-toplevel")
    if not commit or not top or git(folder, "ls-files", "--error-unmatch", ".") is None:
        return Code("unknown")
    root = Path(top)
    paths = ("--", *CODE, *(str(f.resolve()) for f in files if f.resolve().is_relative_to(root.resolve())))
    if not git(root, "status", "--porcelain", "--untracked-files=no", *paths):
        return Code(commit)
    changes = git(root, "diff", "HEAD", *paths) or "changed"
    return Code(commit, hashlib.sha256(changes.encode()).hexdigest()[:8])


@cache
def our_code() -> Code:
    """The state of this package's code at the first call; a process does not import later changes."""
    return code_in(ROOT / "lit_fa")


def git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command in the repository of `folder`; None without git or if the command fails."""
    printed = git_bytes(folder, *arguments)
    return None if printed is None else printed.decode("utf-8", "replace").strip()


def git_bytes(folder: Path, *arguments: str) -> bytes | None:
    """As `git`, in bytes; no program that the repository's configuration names is run."""
    filters = without_filters(folder)
    return None if filters is None else _called(folder, *filters, *arguments)


def without_filters(folder: Path) -> tuple[str, ...] | None:
    """Settings that disable the filters of a repository's own configuration, which git would run on changed files.

    Filters of the user's configuration, such as Git LFS, stay active. None if a name cannot be written as a setting.
    """
    listed = _called(folder, "config", "--list", "--show-scope", "--name-only", "-z")
    if listed is None:  # git before version 2.26
        own = (_called(folder, "config", "--local", "--includes", "--list", "--name-only", "-z") or b"").split(b"\0")
    else:
        fields = listed.split(b"\0")
        own = [name for scope, name in zip(fields[::2], fields[1::2], strict=False) if scope in (b"local", b"worktree")]
    filters = dict.fromkeys(match.group(1) for name in map(os.fsdecode, own) if (match := _FILTER.fullmatch(name)))
    if any("=" in name or "\n" in name for name in filters):
        return None
    empty = [f"filter.{name}.{key}" for name in filters for key in ("clean=", "smudge=", "process=", "required=false")]
    return tuple(word for setting in empty for word in ("-c", setting))


def _called(folder: Path, *arguments: str) -> bytes | None:
    """The output of git; None without git, after a failure or a time-out."""
    at = next((i + 1 for i, word in enumerate(arguments) if word in _WITHOUT_PROGRAMS), 0)
    more = _WITHOUT_PROGRAMS[arguments[at - 1]] if at else ()
    words = ["git", *_PLAIN, "-C", str(folder), *arguments[:at], *more, *arguments[at:]]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=os.environ | _QUIET,
            timeout=_PATIENCE,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@cache
def _deciding_sources() -> tuple[tuple[str, str], ...]:
    """Name and text of the files whose code determines a result, sorted by their names in the repository."""
    found: list[tuple[str, str]] = []
    for name in DECIDING:
        home = str(folder(name) if name in PACKAGES else ROOT / name)
        for place, _, files in sorted(os.walk(home)):
            inner = [] if place == home else os.path.relpath(place, home).split(os.sep)
            found += [("/".join([name, *inner, f]), os.path.join(place, f)) for f in files if f.endswith(".py")]
    return tuple((name, Path(file).read_text(encoding="utf-8")) for name, file in sorted(found))


def note_sources() -> None:
    """Read the code that determines results, so that `sources` does not see later changes; it hashes when asked."""
    _deciding_sources()


@cache
def sources() -> str:
    """A hash (12 hex digits) of the code that determines results, without docstrings and comments; needs no git."""
    digest = hashlib.sha256()
    for name, text in _deciding_sources():
        digest.update(f"{name} {code_digest(text)}\n".encode())
    return digest.hexdigest()[:12]


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def code_digest(text: str) -> str:
    """A hash (12 hex digits) of Python source without docstrings, comments and layout; of the text if it is not Python.

    >>> code_digest('x = 1  # one') == code_digest('"Doc."\\nx  =  1')
    True
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return hashlib.sha256(text.encode()).hexdigest()[:12]
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]


def class_paths(config: Any) -> Iterator[str]:
    """Every `class_path` in a config, at any depth."""
    if isinstance(config, dict):
        if isinstance(path := config.get("class_path"), str):
            yield path
        config = list(config.values())
    for value in config if isinstance(config, list | tuple) else ():
        yield from class_paths(value)


def outside(config: Any) -> dict[str, str]:
    """For every class of a config that is not ours, its distribution and version, or a hash of its source.

    An installed class gives for example `peft 0.15.1`, any other class `<module> sha256 <12 digits>` of the file that
    defines it. Classes that have not been imported are omitted.
    """
    others = sorted({path for path in class_paths(config) if not is_ours(path)})
    return {path: origin for path in others if (origin := _origin(path))}


def _origin(path: str) -> str:
    module, _, name = path.rpartition(".")
    value = getattr(sys.modules.get(module), name, None)
    home = sys.modules.get(getattr(value, "__module__", None) or module)
    file = getattr(home, "__file__", None)
    if value is None or home is None:
        return ""
    top = home.__name__.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"python {sys.version.split()[0]}"
    if file is None or installed(Path(file)):
        return _distribution(top)
    return f"{home.__name__} {source_of(home.__name__) or 'of unknown source'}"


def source_of(module: str) -> str:
    """`sha256 <12 digits>` of a module's source file, which is located without importing it; "" if there is none."""
    top, *inner = module.split(".")
    loaded = getattr(sys.modules.get(module), "__file__", None)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or []) if spec else []
    places = [Path(folder, *inner) for folder in folders]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    files = [*([Path(loaded)] if loaded else []), *files, *([Path(spec.origin)] if spec and spec.origin else [])]
    file = next((file for file in files if file.is_file()), None)
    return f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}" if file else ""


def installed(file: Path) -> bool:
    """Whether a file is in the folders of installed distributions."""
    return any(file.is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))


@cache
def _distribution(package: str) -> str:
    names = _distributions().get(package, [package])
    try:
        return ", ".join(f"{name} {version(name)}" for name in sorted(set(names)))
    except PackageNotFoundError:
        return package


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())
