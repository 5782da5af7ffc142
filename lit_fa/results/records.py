"""Reading run records: one small JSON per run; files that cannot be counted are named and left out.

JSON has no number for nan or infinity (an undefined correlation, a loss that diverged): records contain null, which is
read as nan.
"""

import math
import os
import re
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_fa.bounded_reading import read_json, reason
from lit_fa.escaping import plain, short
from lit_fa.results.derived import with_derived
from lit_fa.results.record_schema import SCHEMAS, numeric, odd_fields, restored
from lit_fa.spec.expand import Run, expand, slug
from lit_fa.spec.table import Cell, Metric, Scale, Table

_FURTHER = re.compile(r".*__seed(\d+)__[0-9a-f]{12}\.json", re.DOTALL)
ENDED = ("finished", "diverged")  # status of a run that is not repeated


@dataclass(frozen=True)
class Record:
    """The numbers of a run that has ended; curves are lists of (step, epoch, value) in the order of training."""

    path: Path
    data: dict[str, Any]

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.data["seed"]

    @property
    def diverged(self) -> str:
        """Where the run diverged, `at step 40 (the output of head)`; "" for a run that finished."""
        if self.data.get("status") != "diverged":
            return ""
        divergence = self.data.get("diverged") or {}
        step, first = divergence.get("step"), divergence.get("first")
        at = f"at step {step}" if step is not None else "at an unknown step"
        return f"{at} ({first})" if first else at

    def curve(self, name: str) -> list[tuple[float, float, float]]:
        """The points of a curve; empty if the run did not log it."""
        return [(point[0], point[1], point[2]) for point in self.data["curves"].get(name, [])]

    def value(self, metric: Metric) -> float | None:
        """The metric at its point `at`; None if the run did not log it.

        `last` is the final metric, or else the end of the curve; `first`, `best`, `mean_last_10` (of the last ten
        points, or of all if there are fewer), `median` and `max_abs` are of the curve. A point that is not finite makes
        the result nan; only `best` ignores such points. `best_validation` is the metric of the weights that were best
        on held-out data.
        """
        if metric.at == "best_validation":
            return self.data["metrics"].get(f"best_validation/{metric.name}")
        points = [value for *_, value in self.curve(metric.name)]
        if metric.at == "last" and metric.name in self.data["metrics"]:
            return float(self.data["metrics"][metric.name])
        if not points:
            return None
        if metric.at == "first":
            return points[0]
        if metric.at == "best":
            finite = [value for value in points if math.isfinite(value)]
            return (max if metric.better == "higher" else min)(finite, default=math.nan)
        if metric.at == "mean_last_10":
            return sum(points[-10:]) / len(points[-10:])
        if metric.at in ("median", "max_abs") and not all(map(math.isfinite, points)):
            return math.nan  # nan has no order
        if metric.at == "median":
            return statistics.median(points)
        return max(abs(value) for value in points) if metric.at == "max_abs" else points[-1]


@dataclass(frozen=True)
class Collected:
    """The records of a table at one scale, with its runs and a line for every file that was left out.

    `records` are of finished runs, `diverged` of runs that diverged, by cell id; means are over `records` alone.
    """

    table: Table
    scale: Scale
    runs: tuple[Run, ...]
    records: dict[str, tuple[Record, ...]]
    problems: tuple[str, ...] = ()
    missing: tuple[Run, ...] = field(default=())
    diverged: dict[str, tuple[Record, ...]] = field(default_factory=dict)

    def of(self, cell: Cell) -> tuple[Record, ...]:
        """The finished records of a cell, one per seed, in the order of the seeds."""
        return self.records.get(cell.id, ())

    def lost(self, cell: Cell) -> tuple[Record, ...]:
        """The records of a cell's diverged runs, in the order of the seeds."""
        return self.diverged.get(cell.id, ())

    @property
    def ended(self) -> list[Record]:
        """The records of finished and diverged runs, in the order of the table."""
        return [record for cell in self.table.cells for record in (*self.of(cell), *self.lost(cell))]

    @property
    def all(self) -> list[Record]:
        """Every finished record, in the order of the table."""
        return [record for cell in self.table.cells for record in self.of(cell)]

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells that this scale has."""
        return [cell for cell in self.table.cells if self.scale.name in cell.scales]

    def runs_of(self, cell: str) -> list[Run]:
        """The runs of a cell, by its id, in the order of the seeds."""
        return self._runs_by_cell.get(cell, [])

    @cached_property
    def _runs_by_cell(self) -> dict[str, list[Run]]:
        by_cell: dict[str, list[Run]] = {}
        for run in self.runs:
            by_cell.setdefault(run.cell.id, []).append(run)
        return by_cell


def collect(table: Table, scale: Scale, folder: Path, *, curves: Collection[str] | None = None) -> Collected:
    """Reads the record of every run; unreadable and unknown files in `folder` become lines of `problems`.

    Runs of seeds that continue the scale's list count where `folder` has their records.

    Args:
        table: that was loaded.
        scale: one of its scales.
        folder: of the records.
        curves: names of the curves to keep, such as `curves_read(table)`; None keeps all. All of them are checked.
            Curves take most of a record's memory: 90 of 100 kB.
    """
    runs = [*expand(table, scale), *further_runs(table, scale, folder)]
    finished: dict[str, list[Record]] = {}
    diverged: dict[str, list[Record]] = {}
    problems, missing = [], []
    for run in runs:
        record, problem = read_record(folder / run.file_name, run, curves)
        problems += [problem] if problem else []
        if record:
            (diverged if record.diverged else finished).setdefault(run.cell.id, []).append(record)
        else:
            missing.append(run)
    problems += foreign(folder, runs)
    return Collected(
        table=table,
        scale=scale,
        runs=tuple(runs),
        records={cell: tuple(records) for cell, records in finished.items()},
        problems=tuple(problems),
        missing=tuple(missing),
        diverged={cell: tuple(records) for cell, records in diverged.items()},
    )


def curves_read(table: Table) -> set[str] | None:
    """The names of the curves that the numbers and figures of a table can be read from; None: all, for heat maps."""
    if any(figure.kind == "depth" for figure in table.figures):
        return None
    metrics = {metric.name for metric in (table.metric, *table.also, *(cell.metric for cell in table.cells))}
    held_out = {f"val/{name.removeprefix('test/')}" for name in metrics}
    return metrics | held_out | {name for figure in table.figures for name in (figure.y, figure.x)}


def further_runs(table: Table, scale: Scale, folder: Path) -> list[Run]:
    """The runs of seeds beyond the scale's list that have a record in `folder`, as `--until-decided` leaves them."""
    seeds = further_seeds(scale, folder)
    runs = expand(table, replace(scale, seeds=seeds)) if seeds else []
    return [run for run in runs if (folder / run.file_name).is_file()]


def further_seeds(scale: Scale, folder: Path) -> tuple[int, ...]:
    """Seeds above all of the scale's in the names of the records in `folder`."""
    names = (_FURTHER.fullmatch(path.name) for path in sorted(folder.glob("*__seed*__*.json")))
    return tuple(sorted({seed for name in names if name and (seed := int(name[1])) > max(scale.seeds)}))


def read_record(path: Path, run: Run, curves: Collection[str] | None = None) -> tuple[Record | None, str]:
    """The record of `run` at `path`, or None; and a line about what is wrong with it.

    (None, "") if there is no file. Numbers too large to be summed are read as not finite. `curves` as for `collect`.
    """
    if not os.path.lexists(path):
        return None, ""
    try:
        data = read_json(path, flat="curves")  # `numeric` accepts no deep ones
        problem = unfinished(data, run.id) or _other_seed(data, run)
    except (OSError, ValueError) as error:
        data, problem = None, reason(error)
    if problem:
        return None, plain(f"{path.name}: {problem}; it will be run again")
    data, huge = restored(data)
    warning = f"{path.name}: {', '.join(huge)}: too large a number, not finite here" if huge else ""
    data = with_derived(data)
    if curves is not None:
        data["curves"] = {name: curve for name, curve in data["curves"].items() if name in curves}
    return Record(path, data), plain(warning)


def foreign(folder: Path, runs: Sequence[Run]) -> list[str]:
    """A line for every JSON file in `folder` that does not belong to a run of the table."""
    known = {run.file_name for run in runs}
    unknown = sorted(path.name for path in folder.glob("*.json") if path.name not in known)
    return [plain(f"{name}: not a run of this table as it is now; skipped") for name in unknown]


def unfinished(data: Any, run_id: str | None) -> str:
    """Why `data` is not the record of the run `run_id`, finished or diverged; "" if it is."""
    if not isinstance(data, dict):
        return "not a run record"
    if data.get("schema", 1) not in SCHEMAS:
        known = " and ".join(map(str, SCHEMAS))
        return (
            f"schema {short(data['schema'])} is not known here ({known} are); upgrade lit-fa, or leave the record out"
        )
    if data.get("status") not in ENDED:
        return f"status is {short(data.get('status'))}, not {' or '.join(map(repr, ENDED))}"
    if not numeric(data.setdefault("metrics", {}), data.setdefault("curves", {})):
        return "metrics or curves are not numbers"
    if data.get("id") != run_id:
        return f"the record of another run ({short(data.get('id'))})"
    odd = odd_fields(data)
    return f"{', '.join(odd)} cannot be read" if odd else ""


def misnamed(record: Record) -> str:
    """Why the record of a table's run cannot be the one that its file is named after; "" if it can."""
    row, column, seed, own = (record.data.get(key) for key in ("row", "column", "seed", "id"))
    if isinstance(seed, bool) or not isinstance(seed, int):
        return "it has no seed"
    named = f"{slug(str(row or ''))}__{slug(str(column or ''))}__seed{seed}__{own}.json"
    return "" if record.path.name == named else f"its row, column, seed and id are those of {named}"


def _other_seed(data: dict[str, Any], run: Run) -> str:
    seed = data.get("seed")
    same = not isinstance(seed, bool) and seed == run.seed
    return "" if same else f"the record of another run (seed {short(seed)})"
