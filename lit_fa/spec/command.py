"""The command line that runs a table, a cell or a run, and the parsing of its `--only`."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from lit_fa.errors import UserError
from lit_fa.shipped import TABLES, is_installed
from lit_fa.spec.output_paths import root_of
from lit_fa.spec.protocol import Protocol
from lit_fa.spec.table import Cell, Scale, Table


def run_command(table: Table, scale: Scale, cell: Cell | None = None, seed: int | None = None) -> str:
    """`lit-fa table run ...` for a table, one cell or one seed of it, quoted for a shell in the project's folder.

    Raises:
        UserError: `--only` cannot express a label, because it would read it as two.
    """
    words = ["lit-fa", "table", "run", name_of(table), "--scale", scale.name, *protocol_option(scale)]
    words += only_option(table, cell) if cell else []
    return shlex.join([*words, *(["--seeds", str(seed)] if seed is not None else [])])


def only_option(table: Table, cell: Cell) -> list[str]:
    """`--only` and the words that choose a cell.

    Raises:
        UserError: as `run_command`.
    """
    axes = ["row", *(["column"] if any(other.column for other in table.cells) else [])]
    words = ["--only", ",".join(f"{axis}={getattr(cell, axis)}" for axis in axes)]
    if read_only(words[1:]) != {axis: [getattr(cell, axis)] for axis in axes}:
        raise UserError(f"{table.path}: --only cannot name the cell {cell.id!r}; rename its row or column")
    return words


def protocol_option(scale: Scale) -> list[str]:
    """The words that choose the scale's protocol; none for the default."""
    return [] if scale.protocol == "matched" else ["--protocol", scale.protocol]


def options_with_records(table: Table, scale: Scale, results: Path) -> list[str]:
    """The options of the other scales and protocols that have records, such as `--scale full --protocol converged`.

    Args:
        table: with its records.
        scale: the one to leave out.
        results: the folder with a folder of records for each scale.
    """
    others = [replace(other, protocol=p) for other in table.scales.values() for p in get_args(Protocol)]
    found = [o for o in others if o.label != scale.label and any((results / o.label).glob("*.json"))]
    return [
        shlex.join(["--scale", o.name, *([] if o.protocol == scale.protocol else ["--protocol", o.protocol])])
        for o in found
    ]


def read_only(options: Sequence[str]) -> dict[str, list[str]]:
    """`["row=FA,column=w32, no bias"]` as labels by axis; a comma separates two only if an axis follows.

    >>> read_only(["row=FA,column=w32, no bias"])
    {'row': ['FA'], 'column': ['w32, no bias']}
    """
    labels: dict[str, list[str]] = {}
    for part in (part for text in options for part in re.split(r",(?=\s*(?:row|column)\s*=)", text)):
        axis, equals, label = (piece.strip() for piece in part.partition("="))
        if not equals or axis not in ("row", "column"):
            raise UserError(f"--only {part!r}: write row=LABEL or column=LABEL, separated by commas")
        labels.setdefault(axis, []).append(label)
    return labels


def name_of(table: Table) -> str:
    """The table's path below the project's folder, with slashes; of the installed package, as every folder finds it."""
    home = TABLES.resolve().parent if is_installed(table.path) else root_of(table.path)
    return table.path.resolve().relative_to(home).as_posix()
