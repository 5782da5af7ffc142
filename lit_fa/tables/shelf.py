"""All tables of a folder, and how much of each is done."""

from pathlib import Path

from rich.console import Console
from rich.table import Table as ConsoleTable

from lit_fa.errors import UserError
from lit_fa.tables.collect import collect
from lit_fa.tables.places import places, tree_of
from lit_fa.tables.reading import read_yaml
from lit_fa.tables.schema import SCALES, Table, load_table


def find_tables(path: Path) -> list[Path]:
    """The table at `path`, or every table below the folder `path`: YAML files that name a paper and cells.

    Raises:
        UserError: there is no such file, or no table in the folder.
    """
    if not path.is_dir():
        return [path]
    found = [file for file in sorted(path.rglob("*.yaml")) if _is_table(file)]
    if not found:
        raise UserError(f"{path}: no table in this folder; a table is a YAML file with `paper` and `cells` or `grid`")
    return found


def print_list(path: Path, output: Console) -> int:
    """Prints every table with its cells and, for each scale, the runs done; 2 if a table cannot be read."""
    listed, broken = ConsoleTable("table", "paper", "cells", *SCALES), []
    for file in find_tables(path):
        try:
            table = load_table(file)
            paper = ", ".join(part for part in (table.paper.key, table.paper.table) if part)
            listed.add_row(str(file), paper, str(len(table.cells)), *(_done(table, name) for name in SCALES))
        except UserError as error:
            broken.append(str(error))
    output.print(listed)
    for line in broken:
        output.print(f"broken: {line}", markup=False, highlight=False, soft_wrap=True)
    return 2 if broken else 0


def _done(table: Table, name: str) -> str:
    """`4 done, 2 missing` at a scale, in the folder that counts."""
    if name not in table.scales:
        return "–"
    found = collect(table, table.scales[name], places(table, name, tree_of(table)).results)
    return f"{len(found.all)} done, {len(found.missing)} missing"


def _is_table(file: Path) -> bool:
    try:
        data = read_yaml(file)
    except UserError:
        return False
    return isinstance(data, dict) and "paper" in data and ("cells" in data or "grid" in data)
