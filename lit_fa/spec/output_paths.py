"""Where records go and which code wrote them: clean trees write results, dirty trees write scratch."""

from dataclasses import dataclass
from glob import escape
from pathlib import Path

from lit_fa.errors import UserError
from lit_fa.provenance import Code, code_in
from lit_fa.shipped import is_installed
from lit_fa.spec.table import Table


@dataclass(frozen=True)
class OutputPaths:
    """The folders of a table at a scale: `results` is counted, `target` receives new records, `scratch` holds logs."""

    results: Path
    target: Path
    scratch: Path

    @property
    def diverted(self) -> bool:
        """New records will not be counted in the results."""
        return self.target != self.results


def tree_of(table: Table) -> Code:
    """The git state of the tree that holds the table; commit "unknown" where there is no git or no repository."""
    return code_in(table.path.parent.resolve(), table.path, table.base_path)


def root_of(path: Path) -> Path:
    """The project's folder: the nearest one above a file with a .git or pyproject.toml, else the file's own.

    Files of the installed package are used from the working directory.
    """
    folder = Path.cwd() if is_installed(path) else path.resolve().parent
    marked = (p for p in (folder, *folder.parents) if (p / ".git").exists() or (p / "pyproject.toml").is_file())
    return next(marked, folder)


def output_paths(
    table: Table, scale: str, tree: Code, *, out: Path | None = None, allow_dirty: bool = False
) -> OutputPaths:
    """Where the records of a table at a scale, by its label, are read and written.

    Results are in `<out>/<table>/<scale>`; the default of `out` is `results` beside the table. A dirty tree writes to
    scratch unless `allow_dirty`; the smoke scale does unless `out` is given. Scratch has one folder for each state of
    the code, so that records of different code are not mixed.
    """
    results = (out or table.path.parent / "results") / table.name / scale
    scratch = root_of(table.path) / "scratch"
    aside = scratch / "tables" / tree.key / table.paper.key / table.name / scale
    if scale.partition("-")[0] == "smoke" and out is None:
        return OutputPaths(aside, aside, scratch)
    return OutputPaths(results, aside if tree.dirty and not allow_dirty else results, scratch)


def dirty_records(table: Table, scale: str, scratch: Path) -> list[Path]:
    """Records of this table and scale that were written aside, whatever the state of the code was."""
    return sorted(scratch.glob(f"tables/*/{escape(table.paper.key)}/{escape(table.name)}/{scale}/*.json"))


def check_inside(path: Path, table: Table, scratch: Path) -> None:
    """Refuse a file or folder of the project that is a link out of it; one that `--out` names may lie anywhere.

    Raises:
        UserError: it leads outside both the project and its folder `scratch`.
    """
    target, allowed = path.resolve(), (root_of(table.path).resolve(), scratch.resolve())
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise UserError(f"{path}: is a link to {target}, outside {allowed[0]}; give the folder with --out")
