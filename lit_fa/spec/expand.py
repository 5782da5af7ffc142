"""Cell x seed x scale -> run: a complete config with an id that says what is computed, not where."""

import copy
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lit_fa.errors import UserError, nearest
from lit_fa.escaping import short
from lit_fa.spec.overrides import assign, run_id, with_seed
from lit_fa.spec.protocol import converge, keep_best
from lit_fa.spec.table import Cell, Scale, Table

_LONGEST = 230  # letters of a record's name, which the files beside it make longer


@dataclass(frozen=True)
class Run:
    """One training: a cell at one scale with one seed; `config` is complete and belongs to this run alone."""

    id: str
    cell: Cell
    scale: str
    seed: int
    config: dict[str, Any]
    protocol: str = "matched"

    @property
    def label(self) -> str:
        """What a person calls this run: `FA, width 32, seed 0`."""
        return ", ".join([part for part in (self.cell.row, self.cell.column) if part] + [f"seed {self.seed}"])

    @property
    def file_name(self) -> str:
        """`<row>__<column>__seed<k>__<id>.json`, the labels reduced to letters, digits, dots and dashes."""
        return f"{slug(self.cell.row)}__{slug(self.cell.column)}__seed{self.seed}__{self.id}.json"


def expand(
    table: Table,
    scale: Scale,
    *,
    only: Mapping[str, Sequence[str]] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Run]:
    """All runs of a table at a scale: every cell with the first seed, then every cell with the second, and so on.

    Args:
        table: a table from `load_table`.
        scale: one of `table.scales`.
        only: labels to keep, `{"row": [...], "column": [...]}`; an absent axis keeps all.
        seeds: the seeds to keep; None keeps all.

    Raises:
        UserError: a label or seed that the table does not have, or an override that does not fit the base.
    """
    cells = [cell for cell in table.cells if scale.name in cell.scales and _selected(cell, only or {})]
    for axis, labels in (only or {}).items():
        _require(labels, [getattr(cell, axis) for cell in table.cells], f"{table.path}: no {axis}")
    _require(seeds or [], scale.seeds, f"{table.path}: at scale {scale.name} no seed")
    chosen = [seed for seed in scale.seeds if seeds is None or seed in seeds]
    of_all_seeds = [_of_all_seeds(table, cell, scale) for cell in cells] if chosen else []
    runs = [
        _run(table, cell, scale, seed, config)
        for seed in chosen
        for cell, config in zip(cells, of_all_seeds, strict=True)
    ]
    names = [run.file_name for run in runs]
    counts = Counter(names)
    for run, name in zip(runs, names, strict=True):
        if len(name) > _LONGEST:
            raise UserError(f"{table.path}: {short(run.cell.id)} is too long for a file's name; shorten the labels")
        if counts[name] > 1:
            raise UserError(f"{table.path}: two cells write {name}; rename the row or column {run.cell.id!r}")
    return runs


def resolve(table: Table, cell: Cell, scale: Scale, seed: int) -> dict[str, Any]:
    """The config of one run: base, then the cell's overrides, then the scale's, then its protocol, then the seed.

    The seed goes to the keys in `seeded`, and wherever a value is written as `$seed`.
    """
    return with_seed(_of_all_seeds(table, cell, scale), table.seeded, seed, f"{table.path}: {cell.id}")


def _of_all_seeds(table: Table, cell: Cell, scale: Scale) -> dict[str, Any]:
    """What the configs of a cell have in common, before the seed; the runs of a table share this work."""
    where = f"{table.path}: {cell.id}"
    config = copy.deepcopy(table.base)
    for overrides in (cell.set, scale.set):
        for key, value in overrides.items():
            assign(config, key, value, where)
    if scale.protocol == "converged":
        converge(config, table.stopping, table.monitored, where)
    elif table.reads_best:
        keep_best(config, table.monitored)
    return config


@lru_cache(maxsize=4096)
def slug(label: str) -> str:
    """A label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-.") or "-"


def _run(table: Table, cell: Cell, scale: Scale, seed: int, of_all_seeds: dict[str, Any]) -> Run:
    config = with_seed(of_all_seeds, table.seeded, seed, f"{table.path}: {cell.id}")
    return Run(id=run_id(config), cell=cell, scale=scale.name, seed=seed, config=config, protocol=scale.protocol)


def _selected(cell: Cell, only: Mapping[str, Sequence[str]]) -> bool:
    return all(getattr(cell, axis) in labels for axis, labels in only.items())


def _require(wanted: Sequence[Any], valid: Sequence[Any], where: str) -> None:
    for value in wanted:
        if value not in valid:
            raise UserError(f"{where} {value!r}; {nearest(value, [str(v) for v in dict.fromkeys(valid)])}")
