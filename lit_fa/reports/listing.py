"""The tables of a folder, and how many of their runs are done."""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table as ConsoleTable

from lit_fa.bounded_reading import bounded
from lit_fa.config.yaml_reader import load
from lit_fa.errors import UserError
from lit_fa.escaping import plain, shown
from lit_fa.outputs import write_text
from lit_fa.results.cost import Estimate, estimate
from lit_fa.results.records import Collected, collect
from lit_fa.results.stale import changes
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import SCALES, Table, load_table

_LARGEST = 4 << 20  # bytes of a table


def find_tables(path: Path) -> list[Path]:
    """The table at `path`, or every table below the folder `path`: YAML files that name a paper and cells.

    Raises:
        UserError: there is no such file, or no table in the folder.
    """
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder; give a table or a folder of them")
    if not path.is_dir():
        return [path]
    tables = [file for file in sorted(path.rglob("*.yaml")) if file.is_file() and _is_table(file)]
    if not tables:
        raise UserError(f"{path}: no table in this folder; a table is a YAML file with `paper` and `cells` or `grid`")
    return tables


@dataclass(frozen=True)
class _Listed:
    """The runs done of a table and their costs, by scale; of the protocol `converged`, those with a record."""

    table: Table
    done: dict[str, dict[str, Any]]
    costs: dict[str, Estimate]
    converged: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, table: Table) -> Self:
        """Reads the table's records."""
        collected = {name: _collected(table, name) for name in table.scales}
        done = {name: _done(one) for name, one in collected.items()}
        return cls(table, done, {name: estimate(one, one.runs) for name, one in collected.items()}, _converged(table))

    @property
    def row(self) -> list[str]:
        """The cells of the printed table."""
        paper = self.table.paper
        name = ", ".join(part for part in (paper.key, paper.table) if part)
        return [shown(str(self.table.path)), shown(name), str(len(self.table.cells)), *map(self._text, SCALES)]

    def _text(self, scale: str) -> str:
        if scale not in self.done:
            return "–"
        under = [f"{_counts(self.converged[scale])} (converged)"] if scale in self.converged else []
        return "\n".join([_counts(self.done[scale]), *under, self.costs[scale].text])

    @property
    def entry(self) -> dict[str, Any]:
        """The same as JSON."""
        scales = {name: counts | {"cost": asdict(self.costs[name])} for name, counts in self.done.items()}
        for name, counts in self.converged.items():
            scales[name]["converged"] = counts
        table = self.table
        return {"table": str(table.path), "paper": table.paper.key, "cells": len(table.cells), "scales": scales}


def print_list(path: Path, output: Console, json_file: Path | None = None) -> int:
    """Prints every table with its cells and, for each scale, the runs done; 2 if a table cannot be read."""
    listed, broken = [], []
    for file in find_tables(path):
        try:
            listed.append(_Listed.of(load_table(file)))
        except UserError as error:
            broken.append(plain(str(error)))
    view = ConsoleTable("table", "paper", "cells", *SCALES)
    for one in listed:
        view.add_row(*one.row)
    output.print(view)
    for line in broken:
        output.print(f"broken: {line}", markup=False, highlight=False, soft_wrap=True)
    if json_file:
        entries = [one.entry for one in listed]
        write_text(json_file, json.dumps({"tables": entries, "broken": broken}, indent=1) + "\n", "--json")
    return 2 if broken else 0


def _collected(table: Table, name: str) -> Collected:
    scale = table.scales[name]
    return collect(table, scale, output_paths(table, scale.label, tree_of(table)).results, curves=())


def _converged(table: Table) -> dict[str, dict[str, Any]]:
    """As `_done` under the protocol `converged`, by scale; without the scales that have no record of it."""
    under, tree = table.under("converged"), tree_of(table)
    folders = {name: output_paths(table, scale.label, tree).results for name, scale in under.scales.items()}
    return {name: _done(_collected(under, name)) for name, folder in folders.items() if any(folder.glob("*.json"))}


def _done(collected: Collected) -> dict[str, Any]:
    """Numbers of runs done and missing at a scale, in the folder of results."""
    ended = len(collected.ended)
    further = {"diverged": ended - len(collected.all), "stale": sum(map(bool, changes(collected)))}
    return {"done": ended, "missing": len(collected.missing)} | {kind: n for kind, n in further.items() if n}


def _counts(done: dict[str, Any]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in done.items())


def _is_table(file: Path) -> bool:
    """Whether a file is a table. Invalid YAML with a line `paper:` counts, so that loading it reports the error."""
    try:
        text = bounded(file, _LARGEST).decode()
        data = load(text, str(file))
    except (OSError, ValueError) as error:  # a UserError is a ValueError
        return isinstance(error, UserError) and bool(re.search(r"^[\"']?paper[\"']?\s*:", text, re.M))
    except RecursionError:
        return False
    return isinstance(data, dict) and "paper" in data and ("cells" in data or "grid" in data)
