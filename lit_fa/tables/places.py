"""Where records go and which code wrote them: clean trees write results, dirty trees write scratch."""

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lit_fa.tables.schema import Table

# The files that can change a number; results are data and may be uncommitted.
_CODE = ["*.py", ":(glob)paper_configs/**/*.yaml", "pyproject.toml"]


@dataclass(frozen=True)
class Tree:
    """State of the code: the commit, and a short hash of what differs from it ("" when nothing does)."""

    commit: str
    changes: str = ""

    @property
    def dirty(self) -> bool:
        """Tracked code or configs differ from the commit."""
        return bool(self.changes)

    @property
    def key(self) -> str:
        """A folder name that changes whenever the code does."""
        return "-".join(part for part in (self.commit[:12], self.changes) if part)


@dataclass(frozen=True)
class Places:
    """The two folders of a table at a scale: `results` is counted, `target` receives the new records."""

    results: Path
    target: Path
    scratch: Path

    @property
    def diverted(self) -> bool:
        """New records will not be counted in the results."""
        return self.target != self.results


def tree_of(table: Table) -> Tree:
    """The git state of the tree that holds the table; commit "unknown" where there is no git or no repository."""
    folder = table.path.parent.resolve()
    root, commit = _git(folder, "rev-parse", "--show-toplevel"), _git(folder, "rev-parse", "HEAD")
    if not root or not commit:
        return Tree("unknown")
    tables = [path.resolve() for path in (table.path, table.base_path)]
    paths = [*_CODE, *(str(path) for path in tables if path.is_relative_to(Path(root).resolve()))]
    if not _git(Path(root), "status", "--porcelain", "--untracked-files=no", "--", *paths):
        return Tree(commit)
    changes = _git(Path(root), "diff", "HEAD", "--", *paths) or "changed"
    return Tree(commit, hashlib.sha256(changes.encode()).hexdigest()[:8])


def root_of(table: Table) -> Path:
    """The project's folder: the nearest one above the table with a .git or pyproject.toml, else the table's own."""
    folder = table.path.resolve().parent
    marked = (p for p in (folder, *folder.parents) if (p / ".git").exists() or (p / "pyproject.toml").is_file())
    return next(marked, folder)


def places(table: Table, scale: str, tree: Tree, *, out: Path | None = None, allow_dirty: bool = False) -> Places:
    """Results are `<out>/<table>/<scale>`, `out` being `results` beside the table unless it is given.

    A dirty tree writes to scratch unless `allow_dirty`; the smoke scale does unless `out` is given. Scratch has one
    folder for each state of the code, so that yesterday's code is not taken for today's.
    """
    results = (out or table.path.parent / "results") / table.name / scale
    scratch = root_of(table) / "scratch"
    aside = scratch / "tables" / tree.key / table.paper.key / table.name / scale
    if scale == "smoke" and out is None:
        return Places(aside, aside, scratch)
    return Places(results, aside if tree.dirty and not allow_dirty else results, scratch)


def dirty_records(table: Table, scale: str, scratch: Path) -> list[Path]:
    """Records of this table and scale that were written aside, whatever the state of the code was."""
    return sorted(scratch.glob(f"tables/*/{table.paper.key}/{table.name}/{scale}/*.json"))


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; empty where it is absent or says no."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
